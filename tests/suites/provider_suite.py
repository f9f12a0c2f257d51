"""Shared suite for every provider, run by ``test_providers.py``."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.provider_case import (
    ProviderCase,
    Sample,
    calls,
    mutated,
    readings,
    reports_in,
    samples_of,
    single_query,
    statuses,
)
from tests.support.kling_examples import a_query
from tracker.errors import InvalidRequest
from tracker.model.task import Report, Status
from tracker.model.untrusted import ID_LENGTH, JsonValue
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Duplicate,
    Found,
    Missing,
    NoSuchCall,
    Rejected,
    Reply,
    Unknown,
    Unsupported,
)

NOW = datetime(2026, 6, 10, 8, 40, tzinfo=UTC)
CALLBACK_URL = "https://homing.example/callbacks/x/1abcdef"
OUTCOMES: Mapping[str, type[object]] = {
    "accepted": Accepted,
    "rejected": Rejected,
    "busy": Busy,
    "bad-credential": BadCredential,
    "duplicate": Duplicate,
    "no-such-call": NoSuchCall,
    "unknown": Unknown,
    "unavailable": Unknown,
    "missing": Missing,
    "unsupported": Unsupported,
}


def check_bounds(report: Report) -> None:
    """Check that the parsed values are bounded and have the declared types."""
    for each in (report.provider_task_id, report.external_id):
        assert each is None or 0 < len(each) <= ID_LENGTH
    for moment in (report.created_at, report.updated_at, *(asset.expires_at for asset in report.assets)):
        assert moment is None or (moment.utcoffset() == timedelta(0) and 2000 <= moment.year <= 2101)
    assert len(report.message) <= 20_000
    assert len(report.assets) <= 100
    for asset in report.assets:
        assert asset.url == "" or re.match(r"https?://", asset.url, re.IGNORECASE)
        assert len(asset.url) <= 4096
    json.dumps(dict(report.price), allow_nan=False)
    assert report.flaw is None or report.status is None


def _name_of(report: Report) -> str:
    if report.flaw is not None:
        return "unreadable"
    return report.status.value if isinstance(report.status, Status) else "unknown-status"


class RequestSuite:
    """The tests of create requests and queries, for each kind of task. A subclass has a fixture ``case``."""

    def test_order_removes_client_callback_and_external_id(self, case: ProviderCase) -> None:
        order = case.order()
        assert (order.external_id, order.callback_url) == (case.client_id, case.client_callback_url)
        kept = json.dumps([order.body, order.shown])
        assert case.client_id is None or case.client_id not in kept
        assert case.client_callback_url not in kept

    def test_order_leaves_the_client_body_unchanged(self, case: ProviderCase) -> None:
        before = deepcopy(case.body)
        case.order()
        assert case.body == before

    def test_request_hash_depends_on_the_body_only(self, case: ProviderCase) -> None:
        order = case.order()
        turned = dict(reversed(order.body.items()))
        assert re.fullmatch(r"[0-9a-f]{64}", order.request_hash)
        assert case.provider.order(case.kind, turned, model=case.model).request_hash == order.request_hash
        assert (
            case.provider.order(case.kind, turned | {"unheard_of": 1}, model=case.model).request_hash
            != order.request_hash
        )

    def test_unknown_fields_pass_through(self, case: ProviderCase) -> None:
        odd: JsonValue = {"deep": [1, None, {"x": "y"}]}
        order = case.provider.order(case.kind, case.body | {"unheard_of": odd}, model=case.model)
        sent = json.loads(case.provider.submit(order, external_id=case.external_id, callback_url=None).body)
        assert sent["unheard_of"] == odd

    def test_unusable_field_is_refused_by_name(self, case: ProviderCase) -> None:
        for name, fields in case.bad:
            with pytest.raises(InvalidRequest, match=name):
                case.provider.order(case.kind, case.body | fields, model=case.model)

    def test_submission_carries_only_homing_callback_and_id(self, case: ProviderCase) -> None:
        call = case.provider.submit(case.order(), external_id=case.external_id, callback_url=CALLBACK_URL)
        assert CALLBACK_URL in call.body.decode()
        assert (case.external_id in call.body.decode()) == case.takes_external_id
        for theirs in (case.client_id, case.client_callback_url):
            assert theirs is None or theirs not in call.body.decode()

    def test_kind_without_external_ids_has_no_lookup(self, case: ProviderCase) -> None:
        if not case.takes_external_id:
            assert not case.provider.kinds[case.kind].looks_up
            assert case.provider.query(a_query(case.external_id, external=True, kind=case.kind)) is None

    def test_submission_from_the_same_order_is_repeatable(self, case: ProviderCase) -> None:
        order = case.order()
        case.provider.submit(order, external_id=case.external_id, callback_url=CALLBACK_URL)
        assert order == case.order()

    def test_submission_without_public_url_has_no_callback(self, case: ProviderCase) -> None:
        call = case.provider.submit(case.order(), external_id=case.external_id, callback_url=None)
        assert "callback" not in call.body.decode()

    @pytest.mark.parametrize("task_id", ["1/2", "a?b=c", "a#b", "ü 語", "%2e"])
    def test_task_id_is_one_path_segment(self, case: ProviderCase, task_id: str) -> None:
        plain = single_query(case, "1")
        odd = single_query(case, task_id)
        assert odd.path.isascii()
        assert odd.path.count("/") == plain.path.count("/")
        assert not set(" ?#") & set(odd.path)
        assert task_id not in odd.path

    def test_request_path_is_below_the_base_url(self, case: ProviderCase) -> None:
        for call in calls(case):
            assert call.path.startswith("/")
            assert not call.path.startswith("//")


class ProviderSuite(RequestSuite):
    """All tests. A subclass in a test module, with fixtures ``case`` and ``sample``, runs them."""

    def test_provider_names_and_kinds_fit_urls_and_rows(self, case: ProviderCase) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", case.provider.name)
        assert case.kind in case.provider.kinds
        for name, kind in case.provider.kinds.items():
            assert kind.name == name
            assert re.fullmatch(r"[a-z0-9]+([/_-][a-z0-9]+)*", name)
            assert timedelta(0) < kind.usual < kind.deadline

    def test_unknown_task_kind_is_refused_with_the_known(self, case: ProviderCase) -> None:
        with pytest.raises(InvalidRequest, match=case.kind):
            case.provider.order("no-such/kind", case.body)

    def test_credential_is_used_but_never_shown(self, case: ProviderCase) -> None:
        assert case.provider.authorization(None, NOW) == {}
        for secret, credential in case.credentials.items():
            headers = case.provider.authorization(credential, NOW)
            assert headers
            assert all(name == name.lower() for name in headers)
            assert headers == case.provider.authorization(credential, NOW)
            assert secret not in repr(credential)

    def test_parser_has_samples_for_every_kind(self, case: ProviderCase) -> None:
        sampled = {sample.reading for sample in samples_of(case)}
        assert {"submit", "query", "callback"} <= sampled <= readings(case).keys()
        assert ("batch" in sampled) == (case.provider.capabilities.batch_size > 0)
        assert ("list" in sampled) == case.provider.capabilities.lists_tasks

    def test_sample_is_parsed_as_its_folder_says(self, sample: Sample) -> None:
        if sample.reading == "callback":
            report = sample.case.provider.read_callback(sample.path.read_bytes())
            assert _name_of(report) == sample.expected, report
            check_bounds(report)
            return
        outcome = readings(sample.case)[sample.reading][0](sample.reply())
        if sample.expected == "found":
            assert isinstance(outcome, Found if sample.reading == "query" else list), outcome
        else:
            assert isinstance(outcome, OUTCOMES[sample.expected]), outcome
        if isinstance(outcome, Unknown):
            assert outcome.unavailable == (sample.expected == "unavailable")
            assert outcome.why
        for report in reports_in(outcome):
            check_bounds(report)
            assert report.provider_task_id

    def test_response_about_another_task_is_not_used(self, case: ProviderCase) -> None:
        for sample in samples_of(case, "query"):
            other = case.provider.read_query(sample.reply(), a_query("another-task"))
            # A not-found answer may name no ID, where no lookup of a lost submission can get it.
            assert not isinstance(other, Found if not case.takes_external_id else Found | Missing), sample

    def test_success_with_foreign_external_id_is_not_used(self, case: ProviderCase) -> None:
        for sample in samples_of(case, "submit"):
            outcome = case.provider.read_submit(sample.reply(), external_id="another-task")
            echo = isinstance(outcome, Accepted) and outcome.report.external_id is not None
            assert not echo, sample

    @given(status=statuses, body=st.binary(max_size=200))
    def test_random_bytes_never_break_a_parser(self, case: ProviderCase, status: int, body: bytes) -> None:
        reply = Reply(status=status, headers={"retry-after": "soon"}, body=body)
        for read, allowed in readings(case).values():
            outcome = read(reply)
            assert isinstance(outcome, allowed)
            assert not isinstance(outcome, Accepted | Rejected | Found | Missing)
            for report in reports_in(outcome):
                assert report.flaw is not None

    @given(data=st.data())
    def test_mutated_sample_never_breaks_a_parser(self, case: ProviderCase, data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(list(samples_of(case))))
        genuine = sample.reply() if sample.path.suffix == ".http" else Reply(status=200, body=sample.path.read_bytes())
        reply = replace(genuine, body=data.draw(mutated(genuine.body)), status=data.draw(statuses))
        for read, allowed in readings(case).values():
            outcome = read(reply)
            assert isinstance(outcome, allowed)
            for report in reports_in(outcome):
                check_bounds(report)

    @given(status=st.integers(500, 599))
    def test_server_error_never_means_task_absent(self, case: ProviderCase, status: int) -> None:
        for sample in samples_of(case, "submit"):
            reply = replace(sample.reply(), status=status)
            outcome = case.provider.read_submit(reply, external_id=case.external_id)
            assert isinstance(outcome, Unknown | Duplicate), sample
