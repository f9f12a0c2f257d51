"""The receiver over real HTTP with the real tracker: trust, storage and answers."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.receiver_server import (
    ATTACKERS_SECRET,
    ME,
    NEXT_SECRET,
    OPEN,
    PROMPT,
    SECRET,
    SIGNING,
    ReceiverServer,
    body,
    receiver_server,
    signed,
)
from tracker.model.task import Alarm, Status, Trust, Verdict


@pytest.fixture
async def signing(tmp_path: Path) -> AsyncIterator[ReceiverServer]:
    async with receiver_server(tmp_path, SIGNING) as made:
        yield made


@pytest.fixture
async def unsigning(tmp_path: Path) -> AsyncIterator[ReceiverServer]:
    async with receiver_server(tmp_path, OPEN) as made:
        yield made


# The trust rules, as recorded in the database


async def test_task_callback_without_secret_is_trusted(unsigning: ReceiverServer) -> None:
    task, path = await unsigning.expect("a")
    answer = await unsigning.post(path, body("a"))
    assert (answer.status_code, answer.json()) == (200, {"status": "recorded"})
    assert await unsigning.status(task) is Status.SUCCEEDED
    [entry] = await unsigning.history(task)
    assert (entry.trust, entry.verdict) == (Trust.TOKEN, Verdict.APPLIED)


@pytest.mark.parametrize("secrets", [(SECRET,), (NEXT_SECRET,), (ATTACKERS_SECRET, NEXT_SECRET), (SECRET, NEXT_SECRET)])
async def test_signature_by_any_secret_is_trusted(signing: ReceiverServer, secrets: tuple[str, ...]) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, *secrets))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED
    [entry] = await signing.history(task)
    assert (entry.trust, entry.body) == (Trust.SIGNED, raw)


@pytest.mark.parametrize(
    ("headers", "status", "alarm"),
    [
        (signed(body("a"), ATTACKERS_SECRET), 401, Alarm.BAD_SIGNATURE),
        (signed(body("another"), SECRET), 401, Alarm.BAD_SIGNATURE),
        (signed(body("a"), SECRET, ago=timedelta(hours=1)), 401, Alarm.STALE_SIGNATURE),
        (signed(body("a"), SECRET, ago=-timedelta(hours=1)), 401, Alarm.STALE_SIGNATURE),
        ({}, 200, Alarm.UNSIGNED),
    ],
    ids=["forged", "of another body", "stale", "future", "missing"],
)
async def test_unverified_callback_only_brings_poll_forward(
    signing: ReceiverServer, headers: dict[str, str], status: int, alarm: Alarm
) -> None:
    task, path = await signing.expect("a")
    before = (await signing.tracker.get(ME, task.id)).next_poll_at
    assert (await signing.post(path, body("a"), headers)).status_code == status
    after = await signing.tracker.get(ME, task.id)
    assert after.status is task.status
    assert after.provider_task_id is None, "the task took an ID from an unverified callback"
    assert before is not None
    assert after.next_poll_at is not None
    assert after.next_poll_at < before
    [entry] = await signing.history(task)
    assert (entry.trust, entry.verdict, entry.body) == (Trust.UNVERIFIED, Verdict.UNVERIFIED, body("a"))
    assert alarm in await signing.alarms()


@pytest.mark.parametrize("status", ["submitted", "processing", "failed", "succeeded"])
async def test_unverified_status_changes_nothing(signing: ReceiverServer, status: str) -> None:
    task, path = await signing.expect("a")
    _, shared_path = await signing.shared_url()
    raw = body("a", status)
    assert (await signing.post(path, raw)).status_code == 200
    assert (await signing.post(shared_path, raw)).status_code == 200
    assert (await signing.post(path, raw, signed(raw, ATTACKERS_SECRET))).status_code == 401
    assert await signing.status(task) is task.status


async def test_replayed_signed_callback_changes_neither_task(signing: ReceiverServer) -> None:
    a, _ = await signing.expect("a")
    b, path_of_b = await signing.expect("b")
    raw = body("a")
    assert (await signing.post(path_of_b, raw, signed(raw, SECRET))).status_code == 200
    assert (await signing.status(a), await signing.status(b)) == (a.status, b.status)
    assert Alarm.MISMATCH in await signing.alarms()


async def test_guessed_webhook_id_does_not_block_true_callback(signing: ReceiverServer) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, ATTACKERS_SECRET, webhook_id="77"))).status_code == 401
    assert (await signing.post(path, raw, signed(raw, SECRET, webhook_id="77"))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED


async def test_repeated_callback_is_one_row(signing: ReceiverServer) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    headers = signed(raw, SECRET)
    answers = [await signing.post(path, raw, headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(await signing.history(task)) == 1


async def test_unsigned_shared_callback_changes_nothing(unsigning: ReceiverServer) -> None:
    task, _ = await unsigning.expect("a")
    _, path = await unsigning.shared_url()
    assert (await unsigning.post(path, body("a"))).status_code == 200
    assert await unsigning.status(task) is task.status


async def test_signed_shared_callback_updates_named_task(signing: ReceiverServer) -> None:
    task, _ = await signing.expect("a")
    _, path = await signing.shared_url()
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, SECRET))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED


async def test_console_test_callback_returns_200(signing: ReceiverServer) -> None:
    _, path = await signing.shared_url()
    raw = b'{"id":"555","status":"submitted","message":"","create_time":1781080778802,"outputs":[]}'
    assert (await signing.post(path, raw, signed(raw, SECRET))).status_code == 200
    [orphan] = await signing.tracker.orphans()
    assert (orphan.provider_task_id, orphan.provider_status) == ("555", "submitted")


async def test_revoked_shared_callback_url_is_not_found(signing: ReceiverServer) -> None:
    row_id, path = await signing.shared_url()
    await signing.tracker.revoke_callback_url(row_id)
    assert (await signing.post(path, body("a"))).status_code == 404
    assert list(await signing.tracker.orphans()) == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\x00", b"[" * 4_000, b'{"id":"\\ud800"}', b'{"id":1e999}', body("a", "exploded"), b"null"],
    ids=["empty", "cut", "not UTF-8", "deep", "surrogate", "infinite", "unknown status", "null"],
)
async def test_unreadable_callback_is_stored_and_alarmed(signing: ReceiverServer, raw: bytes) -> None:
    task, path = await signing.expect("a")
    assert (await signing.post(path, raw)).status_code == 200
    [entry] = await signing.history(task)
    assert (entry.body, entry.verdict) == (raw, Verdict.UNREADABLE)
    assert await signing.status(task) is task.status
    assert await signing.alarms() & {Alarm.UNREADABLE, Alarm.UNKNOWN_STATUS}


async def test_hostile_senders_fail_no_callback(unsigning: ReceiverServer) -> None:
    tasks = [await unsigning.expect(f"x{number}") for number in range(40)]
    bodies = [body(f"x{number}") if number % 2 else b'{"id":"\\u0000","status":[' for number in range(40)]
    answers = await asyncio.gather(
        *(unsigning.post(path, raw) for (_, path), raw in zip(tasks, bodies, strict=True)),
        *(unsigning.post("/callbacks/kling/guessed", b"x") for _ in range(10)),
    )
    assert [answer.status_code for answer in answers] == [200] * 40 + [404] * 10
    for number, (task, _) in enumerate(tasks):
        assert await unsigning.status(task) is (Status.SUCCEEDED if number % 2 else task.status)


# Secrets in output


async def test_log_and_answers_hold_no_secret_or_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = body("a")
    output: list[str] = []
    # Opened here and not by a fixture: pytest enables the loggers that were silenced before the test call.
    async with receiver_server(tmp_path, SIGNING) as signing:
        _, path = await signing.expect("a")
        _, shared_path = await signing.shared_url()
        for each in (path, shared_path, f"{path}x"):
            for headers in (signed(raw, SECRET), signed(raw, ATTACKERS_SECRET), {}):
                answer = await signing.post(each, raw, headers)
                output += [answer.text, str(answer.headers)]
    # Exclude the tests' own client and the driver's debug lines. `homing serve` never shows them.
    elsewhere = ("http",)
    output += [line.getMessage() for line in caplog.records if not line.name.startswith(elsewhere)]
    output += capfd.readouterr()
    assert any("trust signed" in line for line in output), "the log was not read"
    keys = [base64.b64decode(each.removeprefix("whsec_")).decode() for each in (SECRET, NEXT_SECRET)]
    tokens = [each.rpartition("/")[2] for each in (path, shared_path)]
    for secret in (SECRET, NEXT_SECRET, PROMPT, "8675309", *keys, *tokens):
        assert not [line for line in output if secret in line]


async def test_proxy_may_keep_or_strip_public_path(tmp_path: Path) -> None:
    async with receiver_server(tmp_path, replace(OPEN, prefix="/hooks")) as made:
        task, path = await made.expect("mine-1")
        sent = body("mine-1", "processing")

        statuses = [
            (await made.post(f"{before}{path}", sent)).status_code
            for before in ("/hooks", "", "/hooks/hooks", "/other", "/hooks/callbacks")
        ]

        assert statuses == [200, 200, 404, 404, 404]
        assert await made.status(task) is Status.PROCESSING
