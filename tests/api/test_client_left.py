"""Submissions while the database refuses writes: nobody is charged twice, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.serve import membership_of
from tests.support.builders import Deciding, name_of
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling, GatedStore
from tests.support.homing_server import KIND
from tests.support.postgres import Postgres
from tracker.app import create_tracker
from tracker.errors import CommitUnknown, StoreUnavailable
from tracker.loops.membership import HeartbeatTiming
from tracker.model.changes import Change, Known, Work, by_id
from tracker.model.clock import SteeredClock, utc_now
from tracker.model.records import TaskFilter
from tracker.model.task import ClientIdentity, Status, Task
from tracker.providers.base import Account, Call, Reply
from tracker.rules.create_requests import RecordSubmission
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store

CLIENT = ClientIdentity(name="studio", sees_all=True)
QUICK = HeartbeatTiming(heartbeat=timedelta(milliseconds=50), silence=timedelta(seconds=30))


class RefusingStore(Store):
    """A store that refuses the named works while ``refusing`` is set. ``refused`` counts the refusals."""

    def __init__(self, database_url: str, *pieces: str) -> None:
        super().__init__(database_url)
        self.pieces = pieces
        self.refusing = True
        self.refused = 0

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        if self.refusing and any(name_of(work) in self.pieces for work in works):
            if len(works) > 1:
                raise RuntimeError("the recorder tries each piece alone, so that the others are taken")
            self.refused += 1
            raise StoreUnavailable("the database is locked")
        return await super().apply(works)


@dataclass(slots=True, kw_only=True)
class Slow(FakeKling):
    """A provider that creates each task and holds its answer until ``answer_gate`` is set."""

    answer_gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        reply = await super(Slow, self).send(account, call, now=now, within=within)
        if call.method == "POST":
            self.hanging.set()
            await self.answer_gate.wait()
        return reply


@pytest.fixture
def kling() -> Slow:
    return Slow(clock=Clock(utc_now()))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def opened(stack: AsyncExitStack, store: Store, kling: FakeKling) -> Tracker:
    settings = Settings(kling_api_key="made-up-key")
    return await stack.enter_async_context(create_tracker(settings, store=store, transport=kling))


def submit_cat(tracker: Tracker) -> "asyncio.Task[Task]":
    """Submit the same body every time, without an idempotency key."""
    order = tracker.order("kling", KIND, {"prompt": "a cat"})
    return asyncio.create_task(tracker.submit(CLIENT, "kling", order, answered_later=True))


async def left(tracker: Tracker, kling: Slow) -> None:
    """Submit, and disconnect before the provider answers."""
    leaving = submit_cat(tracker)
    await kling.hanging.wait()
    leaving.cancel()
    await asyncio.wait({leaving})


async def test_leave_note_unwritten_resend_joins(stack: AsyncExitStack, tmp_path: Path, kling: Slow) -> None:
    store = RefusingStore(sqlite_url(tmp_path), "NoteAbandoned")
    tracker = await opened(stack, store, kling)
    await left(tracker, kling)

    again, another = submit_cat(tracker), submit_cat(tracker)
    kling.answer_gate.set()
    joined, fresh = await again, await another

    # One client left. One of the two repeated requests takes over its task; the other gets a new task.
    assert {joined.id, fresh.id} == {made.external_id for made in kling.ledger}
    assert store.refused > 0
    await tracker.answered(joined.id)
    await tracker.answered(fresh.id)
    third = await submit_cat(tracker)
    assert third.id not in {joined.id, fresh.id}
    assert len(kling.ledger) == 3
    store.refusing = False


async def test_leave_note_is_retried_until_written(stack: AsyncExitStack, tmp_path: Path, kling: Slow) -> None:
    store = RefusingStore(sqlite_url(tmp_path), "NoteAbandoned")
    tracker = await opened(stack, store, kling)
    await left(tracker, kling)
    kling.answer_gate.set()

    async def refused_again() -> bool:
        return store.refused >= 2

    await until(refused_again)
    store.refusing = False

    async def written() -> bool:
        return (await tracker.get(CLIENT, kling.ledger[0].external_id)).taken_by is None

    await until(written)


async def test_leave_note_dropped_during_write_ends_quietly(stack: AsyncExitStack, tmp_path: Path) -> None:
    store = GatedStore(sqlite_url(tmp_path))
    tracker = await opened(stack, store, FakeKling(clock=Clock(utc_now())))
    notes = tracker.submission.notes
    ends: list[str] = []
    notes.keep(
        "one", Deciding(keys=frozenset(), decide=lambda _: Change(result=None)), written=lambda: ends.append("written")
    )
    await store.waiting.wait()

    trying = asyncio.create_task(notes.attempt("one"))
    dropping = asyncio.create_task(notes.drop("one"))
    await asyncio.sleep(0)
    assert not dropping.done()
    store.gate.set()

    assert await trying
    await dropping
    assert ends == []


async def test_leave_before_row_written_resend_joins(stack: AsyncExitStack, tmp_path: Path, kling: Slow) -> None:
    store = GatedStore(sqlite_url(tmp_path))
    tracker = await opened(stack, store, kling)
    leaving = submit_cat(tracker)
    await store.waiting.wait()
    leaving.cancel()
    await asyncio.wait({leaving})

    again = submit_cat(tracker)
    store.gate.set()
    kling.answer_gate.set()

    assert (await again).id == kling.ledger[0].external_id
    assert len(kling.ledger) == 1


async def test_leave_note_unwritten_other_replica_joins(stack: AsyncExitStack, postgres: Postgres, kling: Slow) -> None:
    """A process writes older notes before its heartbeat. The other replica waits for that heartbeat."""
    url = postgres.fresh()
    store = RefusingStore(url, "NoteAbandoned")
    replicas = []
    for each in (store, Store(url)):
        clock = SteeredClock()
        settings = Settings(database_url=url, kling_api_key="made-up-key")
        tracker = await stack.enter_async_context(create_tracker(settings, store=each, clock=clock, transport=kling))
        await stack.enter_async_context(membership_of(tracker, clock, heartbeat_timing=QUICK))
        replicas.append(tracker)
    await left(replicas[0], kling)

    again = submit_cat(replicas[1])
    await asyncio.wait([again], timeout=1)
    assert not again.done()
    store.refusing = False
    kling.answer_gate.set()

    async with asyncio.timeout(10):
        assert (await again).id == kling.ledger[0].external_id
    assert len(kling.ledger) == 1


async def test_answered_note_is_retried_until_written(stack: AsyncExitStack, tmp_path: Path, kling: Slow) -> None:
    store = RefusingStore(sqlite_url(tmp_path), "NoteAnswered")
    tracker = await opened(stack, store, kling)
    kling.answer_gate.set()
    task = await submit_cat(tracker)

    await tracker.answered(task.id)
    assert store.refused
    assert (await tracker.get(CLIENT, task.id)).answered_at is None
    store.refusing = False

    async def written() -> bool:
        return (await tracker.get(CLIENT, task.id)).answered_at is not None

    await until(written)


@pytest.mark.parametrize(
    ("ending", "status"),
    [("accepted", Status.SUBMITTED), ("refused", Status.REJECTED), ("credential", Status.REJECTED)],
)
async def test_unwritten_outcome_is_written_later(
    stack: AsyncExitStack, tmp_path: Path, ending: str, status: Status
) -> None:
    """If the reseller supports no lookups, only this process knows the outcome of the submission."""
    kling = FakeKling(clock=Clock(utc_now()), echoes=False, looks_up=False, plan=[ending])
    store = RefusingStore(sqlite_url(tmp_path), "RecordAccepted", "RecordRefused", "RecordChange")
    tracker = await opened(stack, store, kling)
    # The client gets no error until the outcome is recorded.
    ours = (await submit_cat(tracker)).id
    assert (await tracker.get(CLIENT, ours)).status is Status.PENDING
    store.refusing = False

    async def written() -> bool:
        return (await tracker.get(CLIENT, ours)).status is status

    await until(written)
    assert (await tracker.get(CLIENT, ours)).provider_task_id == ("kling-1" if ending == "accepted" else None)
    if ending == "credential":
        assert [alarm.kind.value for alarm in (await tracker.stats(CLIENT)).alarms] == ["credential"]


class UnsureStore(Store):
    """A store that loses the answer to one commit of a submission, as a database restart does."""

    unsure = True

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        results = await super().apply(works)
        if self.unsure and any(isinstance(work, RecordSubmission) for work in works):
            self.unsure = False
            raise CommitUnknown("the server closed the connection")
        return results


@pytest.mark.parametrize("key", [None, "key-7"])
async def test_intent_of_unknown_commit_is_never_sent(stack: AsyncExitStack, tmp_path: Path, key: str | None) -> None:
    """The client got an error that says nothing was sent. Only its repeated request creates a task."""
    kling = FakeKling(clock=Clock(utc_now()))
    tracker = await opened(stack, UnsureStore(sqlite_url(tmp_path)), kling)
    order = tracker.order("kling", KIND, {"prompt": "a cat"})
    with pytest.raises(StoreUnavailable):
        await tracker.submit(CLIENT, "kling", order, idempotency_key=key, answered_later=True)

    again = await tracker.submit(CLIENT, "kling", order, idempotency_key=key, answered_later=True)

    rows = (await tracker.find(TaskFilter(), client=CLIENT)).tasks
    assert {task.id: task.status for task in rows if task.status is not Status.REJECTED} == {again.id: Status.SUBMITTED}
    assert [(task.released, task.next_poll_at) for task in rows if task.id != again.id] == [(True, None)]
    assert [made.external_id for made in kling.ledger] == [again.sent_external_id]


async def test_late_refusal_keeps_the_later_attempt(stack: AsyncExitStack, tmp_path: Path) -> None:
    kling = FakeKling(clock=Clock(utc_now()), plan=["refused"])
    store = RefusingStore(sqlite_url(tmp_path), "RecordRefused")
    tracker = await opened(stack, store, kling)
    ours = await submit_cat(tracker)
    with pytest.raises(StoreUnavailable):
        await tracker.submission.notes.flush()
    # Recovery does the same after the provider has denied the task for long enough.
    await store.apply([_absent(ours.id)])
    task = await tracker.submission.again(await tracker.get(CLIENT, ours.id), tracker.providers["kling"])
    store.refusing = False
    await tracker.submission.notes.flush()

    assert (await tracker.get(CLIENT, task.id)).status is Status.SUBMITTED


def _absent(task_id: str) -> Work[None]:
    def decide(known: Known) -> Change[None]:
        task = known.get(by_id(task_id))
        assert task is not None
        return Change(result=None, task=replace(task, not_found=2, lease_owner=None, lease_until=None))

    return Deciding(keys=frozenset({by_id(task_id)}), decide=decide)
