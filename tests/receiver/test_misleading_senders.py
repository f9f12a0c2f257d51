"""Misleading callbacks and provider answers corrupt, block or lose no task."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock
from tracker.app import create_tracker, reconciler_of
from tracker.errors import Refused, ReplyLost
from tracker.model.changes import Change, RecordChange
from tracker.model.facts import assets
from tracker.model.records import Arrived, SharedCallbackUrl
from tracker.model.task import ClientIdentity, Flaw, Observation, Recorded, Source, Status, Task, Trust
from tracker.model.untrusted import milliseconds
from tracker.providers.base import Account, Call, Reply
from tracker.service.lookups import lookup_seen
from tracker.service.tracker import Tracker
from tracker.settings import Settings

KIND = "images/omni-image"
ME = ClientIdentity(name="studio")
Answer = Callable[[Call], "Reply | Awaitable[Reply]"]


class Scripted:
    """A provider with scripted answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[Call] = []

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def send(self, account: Account, call: Call, **_: Any) -> Reply:
        del account
        self.calls.append(call)
        given = self.answer(call)
        return given if isinstance(given, Reply) else await given

    @property
    def creations(self) -> int:
        return sum(call.method == "POST" for call in self.calls)


def reply(status: int, code: int, data: Any = None, message: str = "SUCCEED", **headers: str) -> Reply:
    body = {"code": code, "message": message, "request_id": "r", **({} if data is None else {"data": data})}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=json.dumps(body).encode())


def missing(call: Call) -> Reply:
    return reply(400, 1201, message=f"Task not found by id/external id: {requested_id(call)}")


def requested_id(call: Call) -> str:
    return call.path.rsplit("/", 1)[1]


def external(call: Call) -> str:
    external_id: str = json.loads(call.body)["external_task_id"]
    return external_id


class TrackerHarness:
    """One tracker with a scripted provider and a manual clock."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.clock = Clock()
        self.provider = Scripted(answer)
        settings = Settings(
            database_url=sqlite_url(folder),
            public_url="https://homing.example",
            kling_api_key="made-up-key",
        )
        self.tracker: Tracker = create_tracker(
            settings, clock=self.clock, monotonic=self.clock.monotonic, transport=self.provider
        )
        self.reconciler = reconciler_of(self.tracker)

    def shape(self, task_id: str, external_id: str | None, status: str, *urls: str) -> dict[str, Any]:
        now = milliseconds(self.clock())
        images = [{"index": index, "url": url} for index, url in enumerate(urls)]
        return {
            "task_id": task_id,
            "task_status": status,
            "task_info": {"external_task_id": external_id} if external_id else {},
            "task_result": {"images": images} if images else {},
            "created_at": now,
            "updated_at": now,
        }

    async def submit(self) -> Task:
        return await self.tracker.submit(ME, "kling", self.tracker.order("kling", KIND, {"prompt": "a cat"}))

    async def know_lookups(self) -> None:
        """Record that lookups by external ID work at this base URL, so that denials count."""
        seen = lookup_seen(self.tracker.providers["kling"], KIND, self.clock(), found=True)
        await self.tracker.store.apply([RecordChange(Change(result=None, seen=(seen,)))])

    async def only(self) -> Task:
        rows = await self.tracker.store.tasks.unresolved(provider="kling", kind=KIND, limit=2)
        assert len(rows) == 1
        return rows[0]

    async def abandoned(self) -> None:
        async with asyncio.timeout(60):
            while (await self.only()).taken_by is not None:  # noqa: ASYNC110 - the row is in the database
                await asyncio.sleep(0.01)

    async def deliver(
        self,
        body: dict[str, Any],
        *,
        task: Task | None = None,
        shared_url: SharedCallbackUrl | None = None,
        trust: Trust = Trust.TOKEN,
    ) -> Recorded:
        raw = json.dumps(body).encode()
        observation = Observation(
            source=Source.CALLBACK,
            trust=trust,
            report=self.tracker.providers["kling"].provider.read_callback(raw),
            at=self.clock(),
            body=raw,
            flaw=Flaw.UNSIGNED if trust is Trust.UNVERIFIED else None,
        )
        arrived = Arrived(
            provider="kling", observation=observation, task_id=task.id if task else None, shared_url=shared_url
        )
        return await self.tracker.record(arrived)

    async def rounds(self, number: int, gap: timedelta) -> None:
        for _ in range(number):
            self.clock.advance(gap)
            await self.reconciler.run_once()


async def test_unverified_id_is_not_taken_by_active_submit(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def made(call: Call) -> Reply:
        await gate.wait()
        return reply(200, 0, harness.shape("REAL", external(call), "submitted"))

    def answer(call: Call) -> Reply | Awaitable[Reply]:
        if call.method == "POST":
            return made(call)
        if requested_id(call) == "EVIL":
            return reply(200, 0, harness.shape("EVIL", None, "succeed", "https://evil/1.png"))
        return missing(call)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        sending = asyncio.create_task(harness.submit())
        await until(lambda: bool(harness.provider.calls))
        row = await harness.only()
        await harness.deliver(harness.shape("EVIL", None, "succeed", "https://evil/1.png"), task=row)
        await tracker.poll(ME, row.id)
        gate.set()
        task = await sending
        assert (task.provider_task_id, task.status, assets(task)) == ("REAL", Status.SUBMITTED, ())


async def test_unverified_id_is_not_polled_if_lookups_work(tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        if call.method == "POST" and harness.provider.creations == 1:
            return reply(200, 0, harness.shape("FIRST", external(call), "succeed", "https://x/1.png"))
        if call.method == "POST":
            raise ReplyLost("no answer")
        return missing(call)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        await harness.know_lookups()
        await harness.submit()
        lost = await harness.submit()
        harness.clock.advance(timedelta(seconds=60))
        await harness.deliver(harness.shape("EVIL", None, "succeed", "https://evil/1.png"), task=lost)
        await tracker.poll(ME, lost.id)
        assert "EVIL" not in {requested_id(call) for call in harness.provider.calls if call.method == "GET"}


async def test_reopened_task_is_polled_again(tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        if call.method == "POST":
            return reply(400, 1201, message="a field is wrong")
        return reply(200, 0, harness.shape("P1", requested_id(call), "succeed", "https://x/1.png"))

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        with pytest.raises(Refused) as refused:
            await harness.submit()
        row = await tracker.get(ME, refused.value.task_id)
        await harness.deliver(harness.shape("P1", row.id, "processing"), task=row)
        await harness.rounds(3, timedelta(hours=1))
        assert (await tracker.get(ME, row.id)).status is Status.SUCCEEDED


async def test_denial_is_ignored_once_task_was_seen(tmp_path: Path) -> None:
    """Not found, found with an unknown status, not found: the task existed, so Homing does not resubmit it."""
    answers = iter(["missing", "queued", "missing", "missing", "missing"])

    def answer(call: Call) -> Reply:
        if call.method == "POST" and harness.provider.creations == 1:
            return reply(200, 0, harness.shape("FIRST", external(call), "succeed", "https://x/1.png"))
        if call.method == "POST":
            raise ReplyLost("no answer")
        if next(answers, "missing") == "queued":
            return reply(200, 0, harness.shape("T1", requested_id(call), "queued"))
        return missing(call)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        await harness.know_lookups()
        await harness.submit()
        lost = await harness.submit()
        await harness.rounds(8, timedelta(seconds=60))
        assert harness.provider.creations == 2
        assert (await tracker.get(ME, lost.id)).provider_task_id == "T1"


def lost_then_busy(harness: TrackerHarness, call: Call) -> Reply:
    """Accept the first submission, lose the answer to the second, refuse all others, and deny every lookup."""
    if call.method == "GET":
        return missing(call)
    if harness.provider.creations == 1:
        return reply(200, 0, harness.shape("FIRST", external(call), "succeed", "https://x/1.png"))
    if harness.provider.creations == 2:
        raise ReplyLost("no answer")
    return reply(429, 1303, message="parallel task over resource pack limit")


async def test_callback_stops_resubmission_until_lookup(tmp_path: Path) -> None:
    harness = TrackerHarness(tmp_path, lambda call: lost_then_busy(harness, call))
    async with harness.tracker as tracker:
        await harness.know_lookups()
        await harness.submit()
        lost = await harness.submit()
        while (await tracker.get(ME, lost.id)).not_found < tracker.policy.absences or harness.provider.creations < 3:
            await harness.rounds(1, timedelta(seconds=30))
        await harness.deliver(harness.shape("T1", lost.id, "processing"), task=lost, trust=Trust.UNVERIFIED)
        before = len(harness.provider.calls)
        await harness.rounds(1, timedelta(minutes=20))
        assert harness.provider.calls[before].method == "GET"


async def test_busy_provider_ends_no_submission_early(tmp_path: Path) -> None:
    """Homing retries an acknowledged submission by time, not by count. At the deadline it publishes an event."""
    harness = TrackerHarness(tmp_path, lambda call: lost_then_busy(harness, call))
    async with harness.tracker as tracker:
        await harness.know_lookups()
        await harness.submit()
        lost = await harness.submit()

        await harness.rounds(25, timedelta(minutes=1))
        assert harness.provider.creations > tracker.policy.attempts + 2
        assert (await tracker.get(ME, lost.id)).status is Status.PENDING

        await harness.rounds(20, timedelta(minutes=1))
        assert (await tracker.get(ME, lost.id)).status is Status.REJECTED


async def test_replayed_callback_id_does_not_replace_true_id(tmp_path: Path) -> None:
    """At a provider without external IDs, the callback is the only link to the task."""

    def answer(call: Call) -> Reply:
        if call.method == "POST":
            raise ReplyLost("no answer")
        if requested_id(call) in {"TRUE", "OTHER"}:
            return reply(
                200, 0, harness.shape(requested_id(call), None, "succeed", f"https://x/{requested_id(call)}.png")
            )
        return missing(call)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        lost = await harness.submit()
        await tracker.adopt(ClientIdentity(name="other"), provider="kling", kind=KIND, provider_task_id="OTHER")
        for name in ("OTHER", "TRUE", "OTHER"):
            await harness.deliver(harness.shape(name, None, "succeed", f"https://x/{name}.png"), task=lost)
        await harness.rounds(3, timedelta(seconds=40))
        task = await tracker.get(ME, lost.id)
        assert (task.provider_task_id, task.status) == ("TRUE", Status.SUCCEEDED)


@pytest.mark.parametrize("order", [("TRUE", "OTHER"), ("OTHER", "TRUE")], ids=["first", "last"])
async def test_callback_with_own_external_id_names_the_task_to_poll(tmp_path: Path, order: tuple[str, str]) -> None:
    """No lookup finds the lost task. A replayed callback of a task without external ID comes before or after it."""

    def answer(call: Call) -> Reply:
        if call.method == "POST":
            raise ReplyLost("no answer")
        names = {"TRUE": "processing", "OTHER": "succeed"}
        name = requested_id(call)
        shown = harness.shape(name, None, names[name], "https://evil/1.png") if name in names else None
        return missing(call) if shown is None else reply(200, 0, shown)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        lost = await harness.submit()
        for name in order:
            own = lost.sent_external_id if name == "TRUE" else None
            await harness.deliver(harness.shape(name, own, "processing"), task=lost, trust=Trust.SIGNED)
        await harness.rounds(3, timedelta(seconds=40))
        task = await tracker.get(ME, lost.id)
        assert (task.provider_task_id, task.status) == ("TRUE", Status.PROCESSING)


async def test_orphan_denied_too_early_is_polled_again(tmp_path: Path) -> None:
    visible = False

    def answer(call: Call) -> Reply:
        if visible:
            return reply(200, 0, harness.shape(requested_id(call), "theirs", "succeed", "https://x/1.png"))
        return missing(call)

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        shared_url, _ = await tracker.create_callback_url(ME, provider="kling")
        await harness.deliver(harness.shape("T1", None, "submitted"), shared_url=shared_url, trust=Trust.SIGNED)
        await harness.rounds(25, timedelta(minutes=1))
        assert (await tracker.orphans())[0].state == "orphan"
        visible = True
        signed = harness.shape("T1", None, "succeed", "https://x/1.png")
        await harness.deliver(signed, shared_url=shared_url, trust=Trust.SIGNED)
        await harness.rounds(1, timedelta(minutes=1))
        assert (await tracker.orphans())[0].state == "adopted"


async def test_assets_are_accepted_only_with_final_status(tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        return reply(200, 0, harness.shape("P1", external(call), "submitted"))

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker as tracker:
        task = await harness.submit()
        planted = harness.shape("P1", task.id, "processing", "https://evil/1.png") | {"final_unit_deduction": "9"}
        await harness.deliver(planted, task=task)
        assert not {"assets", "price"} & (await tracker.get(ME, task.id)).facts.keys()


async def test_long_retry_after_does_not_block_account(tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        if call.method == "POST":
            return reply(200, 0, harness.shape("P1", external(call), "submitted"))
        return reply(429, 1302, message="too many requests", retry_after="86400")

    harness = TrackerHarness(tmp_path, answer)
    async with harness.tracker:
        await harness.submit()
        await harness.rounds(6, timedelta(minutes=15))
        assert len(harness.provider.calls) >= 5


async def test_client_resending_after_hangup_gets_same_task(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def made(call: Call) -> Reply:
        await gate.wait()
        return reply(200, 0, harness.shape("P1", external(call), "submitted"))

    harness = TrackerHarness(tmp_path, made)
    async with harness.tracker as tracker:
        order = tracker.order("kling", KIND, {"prompt": "a cat"})
        first = asyncio.create_task(tracker.submit(ME, "kling", order, answered_later=True))
        await until(lambda: bool(harness.provider.calls))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await harness.abandoned()
        again = asyncio.create_task(tracker.submit(ME, "kling", order, answered_later=True))
        await asyncio.sleep(0)
        gate.set()
        await again
        assert harness.provider.creations == 1
        other = await tracker.submit(ME, "kling", order, answered_later=True)
        assert other.id != again.result().id
