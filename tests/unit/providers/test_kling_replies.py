"""Tests of the outcome that each reply of Kling proves."""

import json
from datetime import timedelta

import pytest

from tests.support.kling_examples import OMNI_IMAGE, a_query
from tracker.model.task import Status
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Duplicate,
    Found,
    Missing,
    Page,
    Rejected,
    Reply,
    Unknown,
    Unsupported,
)
from tracker.providers.kling import Kling
from tracker.providers.plain_replies import retry_after

EXTERNAL_ID = "hm01k9tsv5me8kq3x1w7c0b2n4ra"
KLING = Kling()


def reply(status: int, body: JsonValue, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status=status, headers=headers or {}, body=json.dumps(body).encode())


def error(status: int, code: int, message: str = "no") -> Reply:
    return reply(status, {"code": code, "message": message, "request_id": "r"})


def fine(data: JsonValue) -> Reply:
    return reply(200, {"code": 0, "message": "SUCCEED", "request_id": "r", "data": data})


def submitted(data: JsonObject) -> object:
    return KLING.read_submit(fine(data), external_id=EXTERNAL_ID)


def test_accepted_submit_has_task_id_and_status() -> None:
    infos: list[JsonObject] = [{"external_task_id": EXTERNAL_ID}, {}]
    for info in infos:
        outcome = submitted({"task_id": "1", "task_status": "submitted", "task_info": info})
        assert isinstance(outcome, Accepted)
        assert (outcome.report.provider_task_id, outcome.report.status) == ("1", Status.SUBMITTED)


def test_unknown_status_of_submit_is_submitted() -> None:
    outcome = submitted({"task_id": "1", "task_status": "queued"})
    assert isinstance(outcome, Accepted)
    assert (outcome.report.status, outcome.report.provider_status) == (Status.SUBMITTED, "queued")


def test_refusal_keeps_the_provider_message() -> None:
    outcome = KLING.read_submit(error(429, 1102, "Account balance not enough"), external_id=EXTERNAL_ID)
    assert outcome == Rejected(http_status=429, code=1102, message="Account balance not enough")


@pytest.mark.parametrize(
    "message",
    [
        f"External_task_id {EXTERNAL_ID} already exists",
        f"dup: {EXTERNAL_ID.upper()}",
        # A gateway that sends another ID to the provider forwards the message of the provider.
        "External_task_id gw-18 already exists",
        "upstream error: external task id is duplicated",
    ],
)
@pytest.mark.parametrize(("status", "code"), [(400, 1200), (400, 1201), (400, 1999), (409, 1201), (500, 5000)])
def test_submit_reply_id_taken_is_duplicate(status: int, code: int, message: str) -> None:
    outcome = KLING.read_submit(error(status, code, message), external_id=EXTERNAL_ID)
    assert isinstance(outcome, Duplicate)


def test_submit_reply_busy_with_the_id_is_busy() -> None:
    outcome = KLING.read_submit(error(429, 1303, f"{EXTERNAL_ID}: no free slot"), external_id=EXTERNAL_ID)
    assert isinstance(outcome, Busy)


def test_invalid_external_id_is_rejected() -> None:
    outcome = KLING.read_submit(error(400, 1201, "external_task_id must be a string"), external_id=EXTERNAL_ID)
    assert isinstance(outcome, Rejected)


@pytest.mark.parametrize("status", [408, 425, 499, 301, 500, 502, 503, 504])
def test_refusal_with_wrong_http_status_is_unknown(status: int) -> None:
    assert isinstance(KLING.read_submit(error(status, 1201), external_id=EXTERNAL_ID), Unknown)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"code": 1305, "message": "no request id"}),
        (400, {"code": "1201", "message": "text instead of a number", "request_id": "r"}),
        (200, {"code": False, "request_id": "r", "data": {"task_id": "1"}}),
        (400, {"code": 0, "request_id": "r"}),
        (400, {"code": 2001, "request_id": "r"}),
        (400, {"code": 400, "message": "Bad Request"}),
        (200, {"code": 1305, "request_id": "r"}),
        (200, {"code": 5000, "request_id": "r"}),
        (400, {"code": 5002, "request_id": "r"}),
    ],
)
def test_refusal_in_another_form_is_unknown(status: int, body: JsonValue) -> None:
    assert isinstance(KLING.read_submit(reply(status, body), external_id=EXTERNAL_ID), Unknown)


def test_undocumented_refusal_code_is_rejected() -> None:
    assert isinstance(KLING.read_submit(error(400, 1305), external_id=EXTERNAL_ID), Rejected)
    assert isinstance(KLING.read_submit(error(401, 1005), external_id=EXTERNAL_ID), BadCredential)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "999999999"}, 86_400),
        ({"retry-after": "Wed, 10 Jun 2026 08:39:50 GMT", "date": "Wed, 10 Jun 2026 08:39:38 GMT"}, 12),
        ({"retry-after": "Wed, 10 Jun 2026 08:39:30 GMT", "date": "Wed, 10 Jun 2026 08:39:38 GMT"}, 0),
        ({"retry-after": "Wed, 10 Jun 2026 08:39:50 GMT"}, None),
        ({"retry-after": "Wed, 10 Jun 2026 08:39:50 GMT", "date": "Wed, 10 Jun 2026 08:39:38"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "٣"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after(headers) == (None if expected is None else timedelta(seconds=expected))


def test_busy_reply_has_retry_after() -> None:
    answer = reply(429, {"code": 1303, "message": "full", "request_id": "r"}, {"retry-after": "7"})
    expected = Busy(http_status=429, code=1303, message="full", retry_after=timedelta(seconds=7))
    assert KLING.read_submit(answer, external_id=EXTERNAL_ID) == expected
    assert KLING.read_query(answer, a_query("1")) == expected
    assert KLING.read_query_many(answer) == expected


def test_only_documented_not_found_reply_is_missing() -> None:
    text = "Task not found by id/external id: 1"
    assert KLING.read_query(error(400, 1201, text), a_query("1")) == Missing(message=text)
    assert KLING.read_query(error(400, 1201, text), a_query("1", external=True)) == Missing(message=text)
    for other in (error(404, 1201, text), error(400, 1203, text), error(400, 1201, text + "2"), error(404, 1203)):
        outcome = KLING.read_query(other, a_query("1"))
        assert isinstance(outcome, Unknown)
        assert "not the documented not-found answer" in outcome.why
    assert isinstance(KLING.read_query(error(400, 1201, text), a_query("2")), Unknown)


def test_query_reply_must_be_about_the_polled_task() -> None:
    answer = fine({"task_id": "1", "task_status": "processing", "task_info": {"external_task_id": "e"}})
    assert isinstance(KLING.read_query(answer, a_query("1")), Found)
    assert isinstance(KLING.read_query(answer, a_query("e", external=True)), Found)
    assert isinstance(KLING.read_query(answer, a_query("2")), Unknown)
    assert isinstance(KLING.read_query(answer, a_query("2", external=True)), Unknown)


TASK: JsonObject = {"task_id": "1", "task_status": "succeed", "task_info": {"external_task_id": "e"}}


@pytest.mark.parametrize(
    "body",
    [
        TASK,
        {"data": TASK},
        *({"code": code, "data": TASK} for code in (0, "0", 200, "200", "success", "SUCCESS")),
        {"code": "success", "data": {"task_id": "1", "status": "SUCCESS", "data": {"code": 0, "data": TASK}}},
        {"code": "success", "data": {"task_id": "gateway-1", "data": {"code": 0, "data": TASK}}},
        {"code": "success", "data": {**TASK, "data": {"task_id": "upstream-1", "task_status": "succeed"}}},
    ],
)
def test_query_task_in_any_wrapper_is_found(body: JsonValue) -> None:
    answer = reply(200, body)

    outcomes = [KLING.read_query(answer, a_query("1")), KLING.read_query(answer, a_query("e", external=True))]

    assert [isinstance(outcome, Found) and outcome.report.status for outcome in outcomes] == [Status.SUCCEEDED] * 2


def test_query_reply_after_byte_order_mark_is_read() -> None:
    answer = Reply(status=200, body=b"\xef\xbb\xbf" + fine(TASK).body)

    assert isinstance(KLING.read_query(answer, a_query("1")), Found)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"data": TASK}),
        (200, {"code": "error", "data": TASK}),
        (200, {"code": 5000, "data": {**TASK, "task_id": "asked"}}),
        (200, {"code": False, "data": {**TASK, "task_id": "7"}}),
        (302, {**TASK, "task_id": "asked"}),
    ],
)
def test_query_reply_about_other_task_is_unreadable(status: int, body: JsonValue) -> None:
    outcome = KLING.read_query(reply(status, body), a_query("asked"))

    assert isinstance(outcome, Unknown)
    assert outcome.unreadable


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Reply(status=200, body=b"<!doctype html><p>made-up-text"), "HTTP 200: a web page, not JSON"),
        (Reply(status=302, headers={"location": "https://x/?made-up-text"}, body=b""), "HTTP 302: a redirect"),
        (Reply(status=202, body=b""), "HTTP 202: the body is empty"),
        (Reply(status=204, body=b""), "HTTP 204: the body is empty"),
        (reply(200, {"made-up-text": 1}), "HTTP 200: the JSON is not Kling's envelope"),
        (reply(200, {"code": 1, "message": "made-up-text"}), "HTTP 200, code 1"),
    ],
)
def test_query_reply_in_other_form_is_unreadable(answer: Reply, why: str) -> None:
    """Clients can read the reason, so it has no text of the sender. The excerpt has it."""
    outcome = KLING.read_query(answer, a_query("1"))

    assert isinstance(outcome, Unknown)
    assert outcome.unreadable
    assert outcome.why.startswith(why)
    assert "made-up-text" not in outcome.why
    assert ("made-up-text" in outcome.excerpt) == bool(answer.body or answer.headers)


def test_query_reply_with_502_is_not_unreadable() -> None:
    outcome = KLING.read_query(Reply(status=502, body=b"<html>"), a_query("1"))

    assert isinstance(outcome, Unknown)
    assert not outcome.unreadable


@pytest.mark.parametrize("data", [[TASK], {"data": [TASK]}, TASK])
def test_wrapped_task_list_is_read(data: JsonValue) -> None:
    outcome = KLING.read_query_many(reply(200, {"code": "success", "data": data}))

    assert isinstance(outcome, list)
    assert [each.report.provider_task_id for each in outcome] == ["1"]


def test_unfinished_task_may_hide_its_external_id() -> None:
    answer = fine({"task_id": "1", "task_status": "processing", "task_info": {}, "task_result": {}})
    assert isinstance(KLING.read_query(answer, a_query("e", external=True)), Found)
    assert isinstance(KLING.read_query(answer, a_query("e")), Unknown)


@pytest.mark.parametrize("info", [{}, {"external_task_id": "another's"}])
def test_task_found_by_provider_id_is_a_mismatch(info: JsonObject) -> None:
    """A client may name the provider ID of another client's task as its own external ID."""
    answer = fine({"task_id": "1", "task_status": "succeed", "task_info": info})

    outcome = KLING.read_query(answer, a_query("1", external=True))

    assert isinstance(outcome, Unknown)
    assert outcome.mismatch
    assert "another's" not in outcome.why


def test_found_task_has_its_json() -> None:
    task: JsonObject = {"task_id": "1", "task_status": "processing", "task_status_msg": "语"}
    outcome = KLING.read_query(fine(task), a_query("1"))
    assert isinstance(outcome, Found)
    assert outcome.body == '{"task_id":"1","task_status":"processing","task_status_msg":"语"}'.encode()


def test_batch_reply_skips_unreadable_tasks() -> None:
    answer = fine([{"id": "1", "status": "failed"}, None, {"status": "failed"}, {"id": "2", "status": "??"}])
    outcome = KLING.read_query_many(answer)
    assert isinstance(outcome, list)
    assert [(each.report.provider_task_id, each.report.status) for each in outcome] == [
        ("1", Status.FAILED),
        ("2", None),
    ]


def test_key_without_batch_access_is_not_bad() -> None:
    answer = error(401, 1002, "The current API does not support AK/SK")
    assert isinstance(KLING.read_query_many(answer), Unsupported)
    assert isinstance(KLING.read_query(answer, a_query("1")), BadCredential)
    assert isinstance(KLING.read_list(answer, OMNI_IMAGE, None), BadCredential)
    assert isinstance(KLING.read_submit(answer, external_id=EXTERNAL_ID), BadCredential)
    assert isinstance(KLING.read_query_many(error(401, 1004)), BadCredential)


def test_unreadable_reply_does_not_show_its_body() -> None:
    answer = Reply(status=502, body=b"<html>made-up-secret</html>")
    for outcome in (KLING.read_submit(answer, external_id="e"), KLING.read_query(answer, a_query("1"))):
        assert isinstance(outcome, Unknown)
        assert outcome.why.startswith("HTTP 502")
        assert "made-up-secret" not in outcome.why


NEW: JsonObject = {"id": "1", "status": "processing", "external_id": "e"}


@pytest.mark.parametrize(
    ("data", "by_id", "by_external_id"),
    [
        ([NEW], Found, Found),
        ([{"id": "2", "status": "failed"}, NEW], Found, Found),
        ([], Missing, Missing),
        # A task may hide its external ID. Then only the external ID can have found it.
        ([{"id": "1", "status": "processing", "external_id": ""}], Found, Found),
        ([{"id": "1", "status": "processing"}, {"id": "2", "status": "processing"}], Found, Unknown),
        ([{"id": "2", "status": "processing", "external_id": "other"}], Unknown, Unknown),
        (None, Unknown, Unknown),
        ({"result": []}, Unknown, Unknown),
        ([{"status": "processing"}], Unknown, Unknown),
    ],
)
def test_query_of_newer_dialect_is_a_list(data: JsonValue, by_id: type, by_external_id: type) -> None:
    answer = fine(data)
    kind = "text-to-video"
    assert isinstance(KLING.read_query(answer, a_query("1", kind=kind)), by_id)
    assert isinstance(KLING.read_query(answer, a_query("e", kind=kind, external=True)), by_external_id)


def test_only_another_task_is_a_mismatch() -> None:
    answers: tuple[tuple[JsonValue, bool], ...] = (
        ([{"id": "2", "status": "failed"}], True),
        (None, False),
        ({"result": []}, False),
    )
    for data, mismatch in answers:
        outcome = KLING.read_query(fine(data), a_query("1", kind="text-to-video"))
        assert isinstance(outcome, Unknown)
        assert (outcome.mismatch, outcome.unreadable) == (mismatch, not mismatch)


def test_pages_end() -> None:
    legacy, new = "videos/text2video", "omni-video"
    first = KLING.read_list(fine([TASK]), legacy, None)
    assert isinstance(first, Page)
    assert (len(first.found), first.next) == (1, "2")
    last = KLING.read_list(fine([]), legacy, "2")
    assert isinstance(last, Page)
    assert (last.found, last.next) == ([], None)
    pages: tuple[tuple[JsonValue, str | None], ...] = (
        ({"result": [NEW], "count": 1, "next_cursor": "c", "has_more": True}, "c"),
        ({"result": [NEW], "count": 1, "next_cursor": "", "has_more": False}, None),
        ({"result": [NEW], "next_cursor": "c", "has_more": False}, None),
        # A page that leads to itself.
        ({"result": [NEW], "next_cursor": "before", "has_more": True}, None),
    )
    for data, following in pages:
        page = KLING.read_list(fine(data), new, "before")
        assert isinstance(page, Page)
        assert (len(page.found), page.next) == (1, following)
