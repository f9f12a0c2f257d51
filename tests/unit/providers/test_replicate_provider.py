"""Replicate's own words, paths, outputs and answers, besides the shared suite."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.providers import replicate
from receiver.verification import CallbackRequest
from tracker.errors import InvalidRequest
from tracker.model.task import Report, Status
from tracker.model.untrusted import JsonValue
from tracker.providers.base import Found, Page, Query, Reply
from tracker.providers.replicate import Replicate
from tracker.providers.replicate_reports import ASSETS, OUTPUT_LENGTH

SAMPLES = Path(__file__).parents[2] / "samples" / "replicate"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
PROVIDER = Replicate()
COMPLETED = datetime(2026, 6, 10, 8, 40, 1, tzinfo=UTC)


def succeeded(output: JsonValue, **changes: Any) -> Report:
    body = {"id": "p1", "status": "succeeded", "output": output, "completed_at": "2026-06-10T08:40:01Z", **changes}
    return PROVIDER.read_callback(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [
        ("black-forest-labs/flux-schnell", "/v1/models/black-forest-labs/flux-schnell/predictions", None),
        ("deployments/acme/images", "/v1/deployments/acme/images/predictions", None),
        (f"replicate/hello-world:{VERSION}", "/v1/predictions", VERSION),
        (VERSION, "/v1/predictions", VERSION),
    ],
)
def test_model_decides_path_and_version(model: str, path: str, version: str | None) -> None:
    named = PROVIDER.order("predictions", {"input": {}}, model=model)
    in_body = PROVIDER.order("predictions", {"input": {}, "version": model})

    call = PROVIDER.submit(named, external_id="hm1", callback_url="https://homing.example/callbacks/replicate/1ab")

    assert (named.model, in_body.model) == (model, model)
    assert named.request_hash == in_body.request_hash
    assert (call.method, call.path) == ("POST", path)
    assert json.loads(call.body) == {
        "input": {},
        "webhook": "https://homing.example/callbacks/replicate/1ab",
        "webhook_events_filter": ["start", "completed"],
    } | ({"version": version} if version else {})


@pytest.mark.parametrize("model", ["", "flux", "a/b/c", "../b", "a/b:7", VERSION[:-1], "deployments/a", "a/b\n", "á/b"])
def test_unusable_model_is_refused_with_its_forms(model: str) -> None:
    with pytest.raises(InvalidRequest, match="owner/name:version"):
        PROVIDER.order("predictions", {"input": {}}, model=model)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Choose predictions"):
        PROVIDER.order("trainings", {"input": {}}, model="a/b")


def test_inline_file_is_stored_as_digest_and_sent_whole() -> None:
    inline = "data:image/png;base64," + "iVBORw0KGgoA" * 100
    order = PROVIDER.order("predictions", {"input": {"image": inline}}, model="a/b")

    assert "iVBORw0KGgoA" not in json.dumps(order.shown)
    assert order.body == {"input": {"image": inline}}


def test_client_event_filter_is_kept_in_the_row_only() -> None:
    body: dict[str, JsonValue] = {"input": {}, "webhook_events_filter": ["completed", "start", "completed"]}
    order = PROVIDER.order("predictions", body, model="a/b")

    assert order.shown["webhook_events_filter"] == ["start", "completed"]
    assert order.body == {"input": {}}


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [
        ("starting", Status.SUBMITTED, ""),
        ("processing", Status.PROCESSING, ""),
        ("succeeded", Status.SUCCEEDED, ""),
        ("failed", Status.FAILED, ""),
        ("canceled", Status.FAILED, "canceled"),
        ("aborted", Status.FAILED, "aborted"),
        ("queued", None, ""),
    ],
)
def test_status_words(word: str, status: Status | None, message: str) -> None:
    report = succeeded(None, status=word)

    assert (report.status, report.provider_status, report.message) == (status, word, message)


def test_each_url_at_any_depth_is_an_asset_with_its_expiry() -> None:
    output: JsonValue = {
        "video": "https://replicate.delivery/a/out.MP4?x=1",
        "more": [{"cover": "https://replicate.delivery/a/cover.webp"}, "a text", 7],
        "sound": ["https://replicate.delivery/a/out.wav", "https://replicate.delivery/a/model.tar"],
        "again": "https://replicate.delivery/a/out.wav",
    }
    report = succeeded(output)

    assert [(asset.kind, asset.index) for asset in report.assets] == [
        ("video", 0),
        ("image", 1),
        ("audio", 2),
        ("file", 3),
    ]
    assert {asset.expires_at for asset in report.assets} == {COMPLETED + timedelta(hours=1)}
    assert report.output == output


def test_long_output_is_left_out_and_its_files_are_kept() -> None:
    report = succeeded(["https://replicate.delivery/a/out.png", "a" * OUTPUT_LENGTH])

    assert report.output is None
    assert len(report.assets) == 1
    assert "the output is left out" in report.message


def test_number_of_files_is_bounded() -> None:
    report = succeeded([f"https://replicate.delivery/a/{number}.png" for number in range(ASSETS + 2)])

    assert len(report.assets) == ASSETS
    assert report.message == f"2 result(s) left out beyond {ASSETS} files"


def test_unfinished_output_is_not_read() -> None:
    report = succeeded(["https://replicate.delivery/a/1.png"], status="processing")

    assert (report.assets, report.output) == ((), None)


def test_metrics_are_the_measures_of_the_price() -> None:
    assert succeeded("x", metrics={"predict_time": 2.5}).price == {"metrics": {"predict_time": 2.5}}
    assert succeeded("x", metrics={}).price == {}


@pytest.mark.parametrize("written", ["2026-06-10T08:40:01Z", "2026-06-10T10:40:01+02:00", "2026-06-10T08:40:01"])
def test_time_is_utc(written: str) -> None:
    assert succeeded("x", completed_at=written).updated_at == COMPLETED


def test_list_entry_says_where_its_callbacks_go() -> None:
    sample = (SAMPLES / "list" / "found" / "page.http").read_bytes()
    page = PROVIDER.read_list(Reply(status=200, body=sample.partition(b"\n\n")[2]), "predictions", None)

    assert isinstance(page, Page)
    assert page.next == "cD0yMDI2LTA2"
    assert [found.callback_url for found in page.found] == [
        "",
        "https://homing.example/callbacks/replicate/1abcdef",
        "",
    ]


@pytest.mark.parametrize(
    "following", ["https://x/?cursor=" + "a" * 3000, "https://[/?cursor=a", "?cursor=same", "/", 7]
)
def test_unusable_next_page_ends_the_list(following: JsonValue) -> None:
    body = json.dumps({"results": [], "next": following}).encode()

    assert PROVIDER.read_list(Reply(status=200, body=body), "predictions", "same") == Page(found=[])


def test_cursor_goes_to_the_configured_server_only() -> None:
    assert dict(PROVIDER.list_page("predictions", "c=1&d").query) == {"cursor": "c=1&d"}


def test_history_keeps_no_input_and_no_logs() -> None:
    body = json.dumps({"id": "p1", "status": "starting", "input": {"a": 1}, "logs": "long"}).encode()
    found = PROVIDER.read_query(Reply(status=200, body=body), Query(kind="predictions", task_id="p1"))

    assert isinstance(found, Found)
    assert json.loads(found.body) == {"id": "p1", "status": "starting"}


def test_published_scheme_verifies_a_callback() -> None:
    """The vector that the authors of the scheme publish."""
    key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = [
        (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
        (b"webhook-timestamp", b"1614265330"),
        (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]
    request = CallbackRequest(headers=headers, body=b'{"test": 2432232314}')
    now = datetime.fromtimestamp(1614265330, UTC)

    assert replicate.verifier([key]).verify(request, now=now).webhook_id == "msg_p5jXN8AQM9LWM0D4loKWxJek"
