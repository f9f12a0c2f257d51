"""The receiver over real HTTP before the real tracker: what is believed, what is kept, what is told."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.receiver_server import (
    ME,
    NEXT_SECRET,
    OPEN,
    PROMPT,
    SECRET,
    SIGNING,
    STRANGERS,
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


# The rules of trust, as they end in the table


async def test_without_a_secret_a_tasks_own_address_is_believed(unsigning: ReceiverServer) -> None:
    task, path = await unsigning.expect("a")
    answer = await unsigning.post(path, body("a"))
    assert (answer.status_code, answer.json()) == (200, {"status": "recorded"})
    assert await unsigning.status(task) is Status.SUCCEEDED
    [entry] = await unsigning.history(task)
    assert (entry.trust, entry.verdict) == (Trust.TOKEN, Verdict.APPLIED)


@pytest.mark.parametrize("secrets", [(SECRET,), (NEXT_SECRET,), (STRANGERS, NEXT_SECRET), (SECRET, NEXT_SECRET)])
async def test_with_secrets_a_signature_by_any_of_them_is_believed(
    signing: ReceiverServer, secrets: tuple[str, ...]
) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, *secrets))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED
    [entry] = await signing.history(task)
    assert (entry.trust, entry.body) == (Trust.SIGNED, raw)


@pytest.mark.parametrize(
    ("headers", "status", "alarm"),
    [
        (signed(body("a"), STRANGERS), 401, Alarm.BAD_SIGNATURE),
        (signed(body("another"), SECRET), 401, Alarm.BAD_SIGNATURE),
        (signed(body("a"), SECRET, ago=timedelta(hours=1)), 401, Alarm.STALE_SIGNATURE),
        (signed(body("a"), SECRET, ago=-timedelta(hours=1)), 401, Alarm.STALE_SIGNATURE),
        ({}, 200, Alarm.UNSIGNED),
    ],
    ids=["forged", "of another body", "stale", "future", "missing"],
)
async def test_with_secrets_anything_else_is_a_hint_that_moves_nothing_and_brings_the_poll_forward(
    signing: ReceiverServer, headers: dict[str, str], status: int, alarm: Alarm
) -> None:
    task, path = await signing.expect("a")
    before = (await signing.tracker.get(ME, task.id)).next_poll_at
    assert (await signing.post(path, body("a"), headers)).status_code == status
    after = await signing.tracker.get(ME, task.id)
    assert after.status is task.status
    assert after.provider_task_id is None, "an id was learned from a delivery"
    assert before is not None
    assert after.next_poll_at is not None
    assert after.next_poll_at < before
    [entry] = await signing.history(task)
    assert (entry.trust, entry.verdict, entry.body) == (Trust.UNVERIFIED, Verdict.UNVERIFIED, body("a"))
    assert alarm in await signing.alarms()


@pytest.mark.parametrize("word", ["submitted", "processing", "failed", "succeeded"])
async def test_no_word_of_a_hint_moves_anything(signing: ReceiverServer, word: str) -> None:
    task, path = await signing.expect("a")
    _, standing = await signing.standing()
    raw = body("a", word)
    assert (await signing.post(path, raw)).status_code == 200
    assert (await signing.post(standing, raw)).status_code == 200
    assert (await signing.post(path, raw, signed(raw, STRANGERS))).status_code == 401
    assert await signing.status(task) is task.status


async def test_a_signed_delivery_replayed_on_another_tasks_address_moves_neither(signing: ReceiverServer) -> None:
    a, _ = await signing.expect("a")
    b, path_of_b = await signing.expect("b")
    raw = body("a")
    assert (await signing.post(path_of_b, raw, signed(raw, SECRET))).status_code == 200
    assert (await signing.status(a), await signing.status(b)) == (a.status, b.status)
    assert Alarm.MISMATCH in await signing.alarms()


async def test_a_guessed_webhook_id_does_not_shadow_the_true_delivery(signing: ReceiverServer) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, STRANGERS, webhook_id="77"))).status_code == 401
    assert (await signing.post(path, raw, signed(raw, SECRET, webhook_id="77"))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED


async def test_a_repeated_delivery_is_one_row_and_answered_alike(signing: ReceiverServer) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    headers = signed(raw, SECRET)
    answers = [await signing.post(path, raw, headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(await signing.history(task)) == 1


async def test_at_a_standing_address_what_is_unsigned_moves_nothing(unsigning: ReceiverServer) -> None:
    task, _ = await unsigning.expect("a")
    _, path = await unsigning.standing()
    assert (await unsigning.post(path, body("a"))).status_code == 200
    assert await unsigning.status(task) is task.status


async def test_at_a_standing_address_what_is_signed_moves_the_task_that_it_names(signing: ReceiverServer) -> None:
    task, _ = await signing.expect("a")
    _, path = await signing.standing()
    raw = body("a")
    assert (await signing.post(path, raw, signed(raw, SECRET))).status_code == 200
    assert await signing.status(task) is Status.SUCCEEDED


async def test_the_consoles_test_callback_is_answered_200_and_shown(signing: ReceiverServer) -> None:
    _, path = await signing.standing()
    raw = b'{"id":"555","status":"submitted","message":"","create_time":1781080778802,"outputs":[]}'
    assert (await signing.post(path, raw, signed(raw, SECRET))).status_code == 200
    [orphan] = await signing.tracker.orphans()
    assert (orphan.provider_task_id, orphan.provider_status) == ("555", "submitted")


async def test_a_revoked_standing_address_is_not_found(signing: ReceiverServer) -> None:
    row_id, path = await signing.standing()
    await signing.tracker.revoke_callback_url(row_id)
    assert (await signing.post(path, body("a"))).status_code == 404
    assert list(await signing.tracker.orphans()) == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\x00", b"[" * 4_000, b'{"id":"\\ud800"}', b'{"id":1e999}', body("a", "exploded"), b"null"],
    ids=["empty", "cut", "not UTF-8", "deep", "surrogate", "infinite", "unknown word", "null"],
)
async def test_what_cannot_be_read_is_stored_as_its_bytes_alarmed_and_moves_nothing(
    signing: ReceiverServer, raw: bytes
) -> None:
    task, path = await signing.expect("a")
    assert (await signing.post(path, raw)).status_code == 200
    [entry] = await signing.history(task)
    assert (entry.body, entry.verdict) == (raw, Verdict.UNREADABLE)
    assert await signing.status(task) is task.status
    assert await signing.alarms() & {Alarm.UNREADABLE, Alarm.UNKNOWN_STATUS}


async def test_hostile_neighbours_fail_no_delivery(unsigning: ReceiverServer) -> None:
    tasks = [await unsigning.expect(f"x{number}") for number in range(40)]
    bodies = [body(f"x{number}") if number % 2 else b'{"id":"\\u0000","status":[' for number in range(40)]
    answers = await asyncio.gather(
        *(unsigning.post(path, raw) for (_, path), raw in zip(tasks, bodies, strict=True)),
        *(unsigning.post("/callbacks/kling/guessed", b"x") for _ in range(10)),
    )
    assert [answer.status_code for answer in answers] == [200] * 40 + [404] * 10
    for number, (task, _) in enumerate(tasks):
        assert await unsigning.status(task) is (Status.SUCCEEDED if number % 2 else task.status)


# What must not be told


async def test_neither_log_nor_answers_tell_a_token_a_body_or_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = body("a")
    told: list[str] = []
    # Opened here and not by a fixture: pytest listens at the loggers that are silenced before a test is called.
    async with receiver_server(tmp_path, SIGNING) as signing:
        _, path = await signing.expect("a")
        _, standing = await signing.standing()
        for each in (path, standing, f"{path}x"):
            for headers in (signed(raw, SECRET), signed(raw, STRANGERS), {}):
                answer = await signing.post(each, raw, headers)
                told += [answer.text, str(answer.headers)]
    # The tests' own client, and the driver's debug lines, which `homing serve` never shows.
    elsewhere = ("http",)
    told += [line.getMessage() for line in caplog.records if not line.name.startswith(elsewhere)]
    told += capfd.readouterr()
    assert any("trust signed" in line for line in told), "the log was not read"
    keys = [base64.b64decode(each.removeprefix("whsec_")).decode() for each in (SECRET, NEXT_SECRET)]
    tokens = [each.rpartition("/")[2] for each in (path, standing)]
    for secret in (SECRET, NEXT_SECRET, PROMPT, "8675309", *keys, *tokens):
        assert not [line for line in told if secret in line]


async def test_a_proxy_may_leave_the_public_path_or_strip_it(tmp_path: Path) -> None:
    async with receiver_server(tmp_path, replace(OPEN, prefix="/hooks")) as made:
        task, path = await made.expect("mine-1")
        sent = body("mine-1", "processing")

        statuses = [
            (await made.post(f"{before}{path}", sent)).status_code
            for before in ("/hooks", "", "/hooks/hooks", "/other", "/hooks/callbacks")
        ]

        assert statuses == [200, 200, 404, 404, 404]
        assert await made.status(task) is Status.PROCESSING
