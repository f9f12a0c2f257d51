"""The callback route: recorded observations, valid URLs and body limits."""

import asyncio
import hashlib
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from starlette.types import Message

from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.recording_tracker import (
    BODY,
    FORGED,
    MINTING,
    NOW,
    OPEN,
    PATH,
    RECORDED,
    SHARED_PATH,
    SHARED_TOKEN,
    SHARED_URL,
    SIGNING,
    TASK,
    TOKEN,
    WritingTracker,
    call,
    client,
    header,
    kling_account,
    never,
    only,
    playing,
    post,
    scope,
    signed,
    status_of,
    unread,
)
from tracker.model.task import Flaw, Report, Source, Status, Trust
from tracker.providers.kling import Kling
from tracker.rules import callback_tokens

# Recorded observations and their trust level


async def test_callback_is_recorded_with_raw_body_and_report() -> None:
    tracker = WritingTracker()
    response = await post(tracker)
    assert (response.status_code, response.json()) == (200, RECORDED)
    arrived = only(tracker)
    assert (arrived.provider, arrived.task_id, arrived.shared_url) == ("kling", TASK, None)
    observation = arrived.observation
    assert (observation.source, observation.at, observation.body) == (Source.CALLBACK, NOW, BODY)
    assert (observation.report.provider_task_id, observation.report.status) == ("1234567890", Status.SUCCEEDED)


STALE = signed(at=NOW - timedelta(hours=1))
FUTURE = signed(at=NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("path", "settings", "headers", "status", "trust", "flaw"),
    [
        (PATH, OPEN, {}, 200, Trust.TOKEN, None),
        (PATH, OPEN, signed(), 200, Trust.TOKEN, None),
        (PATH, OPEN, FORGED, 200, Trust.TOKEN, None),
        (PATH, SIGNING, signed(), 200, Trust.SIGNED, None),
        (PATH, SIGNING, {}, 200, Trust.UNVERIFIED, Flaw.UNSIGNED),
        (PATH, SIGNING, FORGED, 401, Trust.UNVERIFIED, Flaw.BAD_SIGNATURE),
        (PATH, SIGNING, STALE, 401, Trust.UNVERIFIED, Flaw.STALE_SIGNATURE),
        (PATH, SIGNING, FUTURE, 401, Trust.UNVERIFIED, Flaw.STALE_SIGNATURE),
        (SHARED_PATH, OPEN, {}, 200, Trust.UNVERIFIED, Flaw.SHARED_URL),
        (SHARED_PATH, OPEN, signed(), 200, Trust.UNVERIFIED, Flaw.SHARED_URL),
        (SHARED_PATH, SIGNING, signed(), 200, Trust.SIGNED, None),
        (SHARED_PATH, SIGNING, {}, 200, Trust.UNVERIFIED, Flaw.UNSIGNED),
        (SHARED_PATH, SIGNING, FORGED, 401, Trust.UNVERIFIED, Flaw.BAD_SIGNATURE),
    ],
)
async def test_callback_with_good_token_is_kept_with_its_trust(
    path: str, settings: ReceiverSettings, headers: dict[str, str], status: int, trust: Trust, flaw: Flaw | None
) -> None:
    tracker = WritingTracker()
    response = await post(tracker, settings, path=path, headers=headers)
    assert response.status_code == status
    arrived = only(tracker)
    assert (arrived.observation.trust, arrived.observation.flaw) == (trust, flaw)
    assert arrived.observation.webhook_id == ("42" if trust is Trust.SIGNED else None), "an unverified ID was recorded"
    assert (arrived.task_id, arrived.shared_url) == ((None, SHARED_URL) if path == SHARED_PATH else (TASK, None))


async def test_refused_signature_shows_no_expected_value() -> None:
    response = await post(WritingTracker(), SIGNING, headers=FORGED)
    assert response.json() == {"status": "refused", "reason": "Signature refused"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe\x00",
        b"{",
        b"[]",
        b"null",
        b"[" * 4_096,
        b'{"id":1e999,"status":NaN}',
        b'{"id":"1","status":"exploded"}',
        b'{"id":"1","status":["succeeded"],"update_time":-9e300}',
        b'{"id":"\\ud800","status":"\\u0000"}',
        b'{"code":0,"data":{"task_id":{},"task_status":7,"updated_at":"later"}}',
        b'{"n":' + b"9" * 4000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [PATH, SHARED_PATH])
async def test_any_body_with_good_token_is_stored_unchanged(path: str, body: bytes) -> None:
    tracker = WritingTracker()
    response = await post(tracker, path=path, body=body)
    assert (response.status_code, response.json()) == (200, RECORDED)
    assert only(tracker).observation.body == body


LONG = BODY[:-1] + b',"more":"' + b"x" * 100_000 + b'"}'


@pytest.mark.parametrize(("path", "settings"), [(PATH, OPEN), (PATH, SIGNING), (SHARED_PATH, OPEN)])
async def test_unsigned_long_body_is_truncated_but_read_whole(path: str, settings: ReceiverSettings) -> None:
    tracker = WritingTracker()
    assert (await post(tracker, settings, path=path, body=LONG)).status_code == 200
    observation = only(tracker).observation
    assert observation.report.status is Status.SUCCEEDED
    kept, _, line = observation.body.rpartition(b"\n")
    assert kept == LONG[: 4 * 1024]
    expected = f"[cut by Homing: the first 4096 of {len(LONG)} bytes, SHA-256 {hashlib.sha256(LONG).hexdigest()}]"
    assert line.decode() == expected


async def test_signed_body_is_kept_whole() -> None:
    tracker = WritingTracker()
    assert (await post(tracker, SIGNING, body=LONG, headers=signed(LONG))).status_code == 200
    assert only(tracker).observation.body == LONG


@pytest.mark.parametrize(("body", "here"), [(BODY, True), (LONG, False)])
async def test_long_body_is_parsed_off_event_loop(body: bytes, *, here: bool) -> None:
    read_in: list[threading.Thread] = []

    class Noting(Kling):
        def read_callback(self, raw: bytes) -> Report:
            read_in.append(threading.current_thread())
            return super().read_callback(raw)

    tracker = WritingTracker(providers={"kling": replace(kling_account(), provider=Noting())})
    assert (await post(tracker, body=body)).status_code == 200
    assert [thread is threading.current_thread() for thread in read_in] == [here]


# Callback URLs


BAD_PATHS = [
    "/callbacks",
    "/callbacks/",
    "/callbacks/kling",
    "/callbacks/kling/",
    "/callbacks/kling/nonsense",
    f"{PATH}/",
    f"{PATH}/more",
    f"{PATH}%2Fmore",
    f"{PATH}%0A",
    f"{PATH}%00",
    f"/callbacks/kling/{TOKEN[:-1]}",
    f"/callbacks/kling/{TOKEN}A",
    f"/callbacks/kling/{TOKEN[:20]}X{TOKEN[21:]}",
    f"/callbacks/kling/{callback_tokens.mint([b'another minting secret'], provider='kling', task_id=TASK)}",
    f"/callbacks/kling/{callback_tokens.mint([MINTING], provider='runway', task_id=TASK)}",
    f"/callbacks/runway/{callback_tokens.mint([MINTING], provider='runway', task_id=TASK)}",
    f"/callbacks/KLING/{TOKEN}",
    "/callbacks/kling/%E2%98%83%F0%9F%92%A9",
    "/callbacks/kling/%FF%FE",
    "/callbacks/kling/..%2F..%2Fetc%2Fpasswd",
    f"/callbacks/kling/{'x' * 5000}",
    f"/callbacks/kling/{callback_tokens.shared_token(b'u' * callback_tokens.SHARED_BYTES)}",
    f"{SHARED_PATH}A",
]


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "DELETE"])
async def test_bad_url_is_not_found_for_any_method(path: str, method: str) -> None:
    tracker = WritingTracker()
    async with client(tracker) as http:
        response = await http.request(method, path, content=BODY)
    assert response.status_code == 404
    assert method == "HEAD" or response.json() == {"status": "refused", "reason": "Not found"}
    assert tracker.began == 0


async def test_revoked_shared_url_is_not_found() -> None:
    assert (await post(WritingTracker(shared_urls={}), path=SHARED_PATH)).status_code == 404


async def test_shared_token_of_another_provider_is_not_found() -> None:
    tracker = WritingTracker(shared_urls={SHARED_TOKEN: replace(SHARED_URL, provider="runway")})
    assert (await post(tracker, path=SHARED_PATH)).status_code == 404


async def test_provider_missing_in_tracker_is_not_found() -> None:
    assert (await post(WritingTracker(providers={}))).status_code == 404


async def test_provider_without_verifier_is_not_found() -> None:
    token = callback_tokens.mint([MINTING], provider="runway", task_id=TASK)
    tracker = WritingTracker(providers={"runway": kling_account()})
    assert (await post(tracker, path=f"/callbacks/runway/{token}")).status_code == 404


async def test_only_possible_shared_token_is_looked_up() -> None:
    tracker = WritingTracker()
    for path in BAD_PATHS[:-2]:
        await post(tracker, path=path)
    assert tracker.looked_up == 0


async def test_bad_url_is_not_found_before_body_is_read() -> None:
    headers = [(b"content-length", b"99999999999")]
    sent = await call(WritingTracker(), path="/callbacks/kling/nonsense", headers=headers, receive=unread)
    assert status_of(sent) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", [PATH, SHARED_PATH])
async def test_wrong_method_on_good_url_names_allowed_one(path: str, method: str) -> None:
    tracker = WritingTracker()
    headers = [(b"content-length", b"99999999999")]
    sent = await call(tracker, path=path, method=method, headers=headers, receive=unread)
    assert status_of(sent) == 405
    assert header(sent, b"allow") == b"POST"
    assert tracker.began == 0


# Bodies


async def test_body_beyond_limit_is_413_and_not_recorded() -> None:
    tracker = WritingTracker()
    settings = replace(OPEN, body_limit=len(BODY))
    assert (await post(tracker, settings)).status_code == 200
    response = await post(tracker, settings, body=BODY + b" ")
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert tracker.began == 1


async def test_stalled_body_is_408_and_not_recorded() -> None:
    tracker = WritingTracker()
    sent = await call(tracker, replace(OPEN, body_timeout=timedelta(milliseconds=10)), receive=never)
    assert (status_of(sent), header(sent, b"connection")) == (408, b"close")
    assert tracker.began == 0


@pytest.mark.parametrize("piece", [b"", b" "])
@pytest.mark.parametrize("pause", [0, 0.001])
async def test_dripping_body_is_408_and_not_recorded(piece: bytes, pause: float) -> None:
    tracker = WritingTracker()

    async def dripping() -> Message:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": piece, "more_body": True}

    sent = await call(tracker, replace(OPEN, body_timeout=timedelta(milliseconds=10)), receive=dripping)
    assert (status_of(sent), header(sent, b"connection")) == (408, b"close")
    assert tracker.began == 0


async def test_request_cancelled_during_body_gets_no_answer() -> None:
    sent: list[Message] = []
    posting = asyncio.create_task(call(WritingTracker(), receive=never, sent=sent))
    await asyncio.sleep(0)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    assert sent == []


async def test_slow_body_leaves_commit_its_full_timeout() -> None:
    tracker = WritingTracker(gate=asyncio.Event())
    parts = iter([b"{", b"}"])

    async def slow() -> Message:
        await asyncio.sleep(0.03)
        piece = next(parts)
        return {"type": "http.request", "body": piece, "more_body": piece != b"}"}

    settings = replace(OPEN, body_timeout=timedelta(seconds=30), commit_timeout=timedelta(milliseconds=50))
    assert status_of(await call(tracker, settings, receive=slow)) == 503
    assert tracker.began == 1


async def test_http_2_is_not_asked_to_close_connection() -> None:
    settings = replace(OPEN, body_timeout=timedelta(milliseconds=10))
    assert header(await call(WritingTracker(), settings, receive=never, http_version="2"), b"connection") is None


async def test_disconnect_during_body_records_nothing() -> None:
    tracker = WritingTracker()
    parts: list[Message] = [{"type": "http.request", "body": b'{"id"', "more_body": True}, {"type": "http.disconnect"}]
    assert await call(tracker, receive=playing(parts)) == []
    assert tracker.began == 0


# Answers


@pytest.mark.parametrize(
    ("path", "status"), [(PATH, 200), ("/callbacks/kling/nonsense", 404), ("/callbacks/a/b/c", 404)]
)
async def test_middleware_changes_do_not_reach_next_answer(path: str, status: int) -> None:
    receiver = create_receiver(WritingTracker(), OPEN)
    for _ in range(2):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append({**message, "headers": [*message.get("headers", [])]})
            message.setdefault("headers", []).append((b"x-added", b"by a middleware"))
            message["status"] = 500
            message["body"] = b"replaced"

        await receiver(scope(path), playing([{"type": "http.request", "body": BODY}]), send)
        assert status_of(sent) == status
        assert [name for name, _ in sent[0]["headers"]] == [b"content-length", b"content-type"]
        assert sent[1]["body"] != b"replaced"
