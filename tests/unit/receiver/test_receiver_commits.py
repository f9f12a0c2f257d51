"""The callback route: rate limits, failed commits and log lines."""

import asyncio
import gc
import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from starlette.types import Message

from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.conditions import until
from tests.support.recording_tracker import (
    BODY,
    FORGED,
    OPEN,
    OTHER_TOKEN,
    PATH,
    SECRET,
    SHARED_PATH,
    SHARED_TOKEN,
    SIGNING,
    TASK,
    TOKEN,
    WritingTracker,
    call,
    client,
    ours,
    playing,
    post,
    scope,
    signed,
    status_of,
)
from tracker.errors import NotFound, Overloaded, StoreUnavailable

# Rate limits


@pytest.mark.parametrize(("settings", "headers", "kept"), [(SIGNING, FORGED, 401), (SIGNING, {}, 200)])
async def test_unverified_callbacks_beyond_rate_are_429(
    settings: ReceiverSettings, headers: dict[str, str], kept: int
) -> None:
    tracker = WritingTracker()
    async with client(tracker, settings) as http:
        answers = [await http.post(PATH, content=BODY, headers=headers) for _ in range(32)]
        assert [answer.status_code for answer in answers] == [kept] * 30 + [429] * 2
        assert answers[-1].headers["retry-after"] == "2"
        assert len(tracker.given) == 30
        assert (await http.post(PATH, content=BODY, headers=signed())).status_code == 200, (
            "a signed callback was limited"
        )
        other = await http.post(f"/callbacks/kling/{OTHER_TOKEN}", content=BODY, headers=headers)
        assert other.status_code == kept, "another URL was limited"
        tracker.now += timedelta(seconds=2)
        assert (await http.post(PATH, content=BODY, headers=headers)).status_code == kept


async def test_shared_url_has_its_own_rate() -> None:
    tracker = WritingTracker()
    async with client(tracker, replace(OPEN, unverified_rate=1, shared_rate=3)) as http:
        answers = [await http.post(SHARED_PATH, content=BODY) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


async def test_token_callbacks_have_their_own_rate() -> None:
    tracker = WritingTracker()
    async with client(tracker, replace(OPEN, unverified_rate=1, token_rate=3)) as http:
        answers = [await http.post(PATH, content=BODY) for _ in range(4)]
        other = await http.post(f"/callbacks/kling/{OTHER_TOKEN}", content=BODY)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] == "20"
    assert other.status_code == 200, "another URL was limited"


async def test_signed_callbacks_are_not_limited() -> None:
    tracker = WritingTracker()
    async with client(tracker, replace(SIGNING, unverified_rate=1, token_rate=1, shared_rate=1)) as http:
        for path in (PATH, SHARED_PATH):
            assert {(await http.post(path, content=BODY, headers=signed())).status_code for _ in range(3)} == {200}


# Commits


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (StoreUnavailable("locked"), "5"),
        (Overloaded("full", retry_after=timedelta(seconds=11.2)), "12"),
        (RuntimeError(f"a library's message that quotes {BODY!r} and {TOKEN}"), "5"),
        (TimeoutError(), "5"),
        (RecursionError(), "5"),
    ],
)
@pytest.mark.parametrize("headers", [signed(), FORGED, {}])
async def test_failed_commit_is_never_acknowledged(
    error: Exception, wait: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await post(WritingTracker(fails=error), SIGNING, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, wait)
    assert response.json() == {"status": "unavailable"}
    for line in ours(caplog):
        assert "made-up prompt" not in line.getMessage()
        assert TOKEN not in line.getMessage()
        assert line.exc_info is None, "a traceback was logged"


async def test_unexpected_error_is_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    await post(WritingTracker(fails=RuntimeError("quotes a body")))
    assert "unexpected RuntimeError at recording_tracker.py:" in caplog.text
    assert "quotes a body" not in caplog.text


async def test_store_error_on_shared_url_is_not_404() -> None:
    response = await post(WritingTracker(fails=StoreUnavailable("locked")), path=SHARED_PATH)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


async def test_token_of_deleted_task_is_not_found() -> None:
    assert (await post(WritingTracker(fails=NotFound("no such task")))).status_code == 404


async def test_callback_is_not_answered_before_commit() -> None:
    tracker = WritingTracker(gate=asyncio.Event())
    sent: list[Message] = []
    posting = asyncio.create_task(call(tracker, sent=sent))
    await until(lambda: tracker.began == 1)
    assert sent == []
    assert tracker.gate is not None
    tracker.gate.set()
    assert status_of(await posting) == 200


async def test_commit_continues_after_request_is_cancelled() -> None:
    tracker = WritingTracker(gate=asyncio.Event())
    posting = asyncio.create_task(call(tracker))
    await until(lambda: tracker.began == 1)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    assert tracker.gate is not None
    tracker.gate.set()
    await until(lambda: len(tracker.given) == 1)


async def test_slow_commit_is_not_acknowledged_and_continues(caplog: pytest.LogCaptureFixture) -> None:
    tracker = WritingTracker(gate=asyncio.Event())
    response = await post(tracker, replace(OPEN, commit_timeout=timedelta(milliseconds=10)))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "unexpected" not in caplog.text
    assert tracker.gate is not None
    tracker.gate.set()
    await until(lambda: len(tracker.given) == 1)


async def test_commit_that_fails_after_timeout_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    tracker = WritingTracker(gate=asyncio.Event(), fails=RuntimeError("quotes a body"))
    await post(tracker, replace(OPEN, commit_timeout=timedelta(milliseconds=10)))
    assert tracker.gate is not None
    tracker.gate.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()  # asyncio logs an error that was never retrieved when the task is deleted
    assert "quotes a body" not in caplog.text
    assert all(line.exc_info is None for line in ours(caplog)), "a traceback was logged"


async def test_callbacks_waiting_for_commit_are_bounded() -> None:
    tracker = WritingTracker(gate=asyncio.Event())
    async with client(tracker, replace(OPEN, commits=2)) as http:
        first = [asyncio.create_task(http.post(PATH, content=BODY)) for _ in range(2)]
        await until(lambda: tracker.began == 2)
        assert (await http.post(PATH, content=BODY)).status_code == 503
        assert tracker.gate is not None
        tracker.gate.set()
        assert [(await each).status_code for each in first] == [200, 200]
        assert (await http.post(PATH, content=BODY)).status_code == 200


async def test_disconnect_after_commit_keeps_callback() -> None:
    tracker = WritingTracker()

    async def gone(message: Message) -> None:
        raise BrokenPipeError(message["type"])

    await create_receiver(tracker, OPEN)(scope(), playing([{"type": "http.request", "body": BODY}]), gone)
    assert len(tracker.given) == 1


# Log lines


@pytest.mark.parametrize(
    ("path", "headers", "body", "expected"),
    [
        (PATH, signed(), BODY, f"200, kling task {TASK}, applied, trust signed, {len(BODY)} bytes"),
        (PATH, {}, BODY, f"200, kling task {TASK}, applied, trust unverified, flaw unsigned, {len(BODY)} bytes"),
        (
            PATH,
            FORGED,
            BODY,
            f"401, kling task {TASK}, applied, signature refused, trust unverified, flaw bad_signature",
        ),
        (SHARED_PATH, signed(), BODY, "200, kling shared URL 7, applied, trust signed"),
        (PATH, {}, BODY * 20_000, f"413, kling task {TASK}, content too large"),
        ("/callbacks/kling/nonsense", {}, BODY, "404, unknown URL, not found"),
    ],
)
async def test_callback_is_one_log_line_without_secrets(
    path: str, headers: dict[str, str], body: bytes, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await post(WritingTracker(), SIGNING, path=path, headers=headers, body=body)
    [record] = ours(caplog)
    assert record.name == "homing.receiver"
    assert record.getMessage().startswith(f"/callbacks/{{provider}}/{{token}}: {expected}")
    for kept_quiet in (TOKEN, SHARED_TOKEN, "nonsense", "made-up prompt", "1234567890", SECRET, *headers.values()):
        assert kept_quiet == "42" or kept_quiet not in record.getMessage()
