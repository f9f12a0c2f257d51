"""Every process learns durations from finished tasks and schedules the next polls with them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.builders import NOW, OMNI, a_completion
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling, Made
from tracker.app import create_tracker, reconciler_of
from tracker.errors import StoreUnavailable
from tracker.model.changes import Change, RecordChange
from tracker.model.records import Arrived, Completion
from tracker.model.task import ClientIdentity, Observation, Source, Task, Trust
from tracker.providers.kling import Kling
from tracker.rules.learning import Group
from tracker.rules.schedule import Policy
from tracker.service.learner import MAX_COMPLETIONS, Learner
from tracker.service.lookups import lookup_seen
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store

STUDIO = ClientIdentity(name="studio")
OPERATOR = ClientIdentity(name="operator", sees_all=True)
POLICY = Policy()
KIND = Group("kling", OMNI)
RUN = timedelta(seconds=20)
MODEL = "kling-v3-omni"


@asynccontextmanager
async def tracking(folder: Path, kling: FakeKling, clock: Clock, *, policy: Policy = POLICY) -> AsyncIterator[Tracker]:
    chosen = Settings(
        database_url=sqlite_url(folder),
        kling_base_url="https://kling.example",
        kling_api_key="made-up-key",
        public_url="https://homing.example",
    )
    async with create_tracker(
        chosen, policy=policy, clock=clock, monotonic=clock.monotonic, transport=kling
    ) as tracker:
        # Homing polls the first task at a base URL early, to verify that lookups work there.
        seen = lookup_seen(tracker.providers["kling"], OMNI, clock(), found=True)
        await tracker.store.apply([RecordChange(Change(result=None, seen=(seen,)))])
        yield tracker


async def sent(tracker: Tracker, number: int = 0) -> Task:
    order = tracker.order("kling", OMNI, {"prompt": f"picture {number}", "model_name": MODEL})
    return await tracker.submit(STUDIO, "kling", order)


def observation_of(kling: FakeKling, made: Made, clock: Clock) -> Observation:
    report = Kling().read_callback(kling.body(made))
    return Observation(source=Source.CALLBACK, trust=Trust.TOKEN, report=report, at=clock(), body=kling.body(made))


async def finish_tasks(tracker: Tracker, kling: FakeKling, clock: Clock, *, callback_after: timedelta | None) -> None:
    """Submit twelve tasks that run 20 s, and poll each when it has ended. Send callbacks after `callback_after`."""
    tasks = [await sent(tracker, number) for number in range(12)]
    clock.advance(RUN)
    for made in kling.ledger:
        made.status = "succeed"
    for task in tasks:
        assert (await tracker.poll(STUDIO, task.id))[0].finished_at is not None
    if callback_after is not None:
        clock.advance(callback_after)
        for task in tasks:
            made = next(made for made in kling.ledger if made.external_id == task.id)
            arrived = Arrived(provider="kling", observation=observation_of(kling, made, clock), task_id=task.id)
            await tracker.record(arrived)


async def test_learned_durations_schedule_next_poll(tmp_path: Path) -> None:
    clock = Clock()
    kling = FakeKling(clock=clock)
    async with tracking(tmp_path, kling, clock) as tracker:
        before = await sent(tracker)
        assert before.next_poll_at is not None
        assert before.next_poll_at >= clock() + timedelta(seconds=40)
        await finish_tasks(tracker, kling, clock, callback_after=None)
        clock.advance(POLICY.callback_grace)
        await tracker.learner.learn()
        after = await sent(tracker)
        assert after.next_poll_at is not None
        assert RUN * 0.9 < after.next_poll_at - clock() < RUN * 1.1
        assert (await tracker.get(STUDIO, after.id)).model == MODEL
        loss = (await tracker.habits(OPERATOR)).callbacks[KIND]
        assert (loss.tasks, loss.lost) == (12, 12)


async def test_callback_right_after_poll_is_not_lost(tmp_path: Path) -> None:
    clock = Clock()
    kling = FakeKling(clock=clock)
    async with tracking(tmp_path, kling, clock) as tracker:
        await finish_tasks(tracker, kling, clock, callback_after=timedelta(seconds=30))
        await tracker.learner.learn()
        assert tracker.learner.habits.callbacks == {}
        clock.advance(POLICY.callback_grace)
        await tracker.learner.learn()
        loss = tracker.learner.habits.callbacks[KIND]
        assert (loss.tasks, loss.lost) == (12, 0)
        after = await sent(tracker)
        assert after.next_poll_at is not None
        assert after.next_poll_at - clock() > RUN + POLICY.least_gap * 0.9


async def test_two_processes_learn_the_same(tmp_path: Path) -> None:
    clock = Clock()
    kling = FakeKling(clock=clock)
    async with tracking(tmp_path, kling, clock) as first, tracking(tmp_path, kling, clock) as second:
        await finish_tasks(first, kling, clock, callback_after=None)
        clock.advance(POLICY.callback_grace)
        await first.learner.learn()
        await finish_tasks(first, kling, clock, callback_after=None)
        clock.advance(POLICY.callback_grace)
        await first.learner.learn()
        await second.learner.learn()
        assert first.learner.habits == second.learner.habits
        assert len(first.learner.habits.run_times[KIND].seconds) == 24


async def test_learned_values_are_fresh_for_all_clients_key(tmp_path: Path) -> None:
    clock = Clock()
    kling = FakeKling(clock=clock)
    async with tracking(tmp_path, kling, clock) as tracker:
        await finish_tasks(tracker, kling, clock, callback_after=None)
        clock.advance(POLICY.callback_grace)
        assert (await tracker.habits(STUDIO)).callbacks == {}
        assert (await tracker.habits(OPERATOR)).callbacks[KIND].tasks == 12


async def test_reconciler_loop_keeps_learning(tmp_path: Path) -> None:
    clock = Clock()
    kling = FakeKling(clock=clock)
    often = Policy(learn_every=timedelta(milliseconds=10))
    async with tracking(tmp_path, kling, clock, policy=often) as tracker:
        stop = asyncio.Event()
        loop = asyncio.create_task(reconciler_of(tracker).run(stop))
        for times in (1, 2):
            await finish_tasks(tracker, kling, clock, callback_after=None)
            clock.advance(POLICY.callback_grace)

            async def learned(tasks: int = 12 * times) -> bool:
                known = tracker.learner.habits.run_times.get(KIND)
                return known is not None and len(known.seconds) == tasks

            await until(learned)
        stop.set()
        await loop


class Rows(Store):
    """A store with scripted completions, or a scripted error."""

    def __init__(self) -> None:
        super().__init__("sqlite:///nowhere.db")
        self.rows: list[Completion] = []
        self.error: Exception | None = None
        self.queries = 0

    async def completions(
        self, *, after: tuple[datetime, str] | None, until: datetime, limit: int
    ) -> Sequence[Completion]:
        self.queries += 1
        if self.error is not None:
            raise self.error
        ended = [row for row in self.rows if row.finished_at <= until]
        if after is None:
            return ended[-limit:]
        return [row for row in ended if (row.finished_at, row.task_id) > after][:limit]


def learner(rows: Rows, policy: Policy = POLICY) -> Learner:
    clock = Clock(NOW + timedelta(days=1))
    return Learner(store=rows, accounts={}, policy=policy, clock=clock, monotonic=clock.monotonic)


async def test_learner_reads_only_newest_completions() -> None:
    rows = Rows()
    learning = learner(rows)
    rows.rows = [a_completion(number) for number in range(3 * MAX_COMPLETIONS)]
    await learning.learn()
    rows.rows += [a_completion(number, model="new") for number in range(3 * MAX_COMPLETIONS, 6 * MAX_COMPLETIONS)]
    rows.queries = 0
    await learning.learn()
    assert rows.queries <= 2
    assert learning.habits.upto == (rows.rows[-1].finished_at, rows.rows[-1].task_id)
    assert Group("kling", OMNI, "new") in learning.habits.run_times
    rows.queries = 0
    await learning.learn()
    assert rows.queries == 1


async def test_learner_database_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows()
    rows.rows = [a_completion(number) for number in range(20)]
    learning = learner(rows, Policy(learn_every=timedelta(milliseconds=1)))
    await learning.refresh()
    known = learning.habits
    rows.error = StoreUnavailable("the disk is full")
    stop = asyncio.Event()
    with caplog.at_level(logging.WARNING, "homing.learner"):
        loop = asyncio.create_task(learning.run(stop))

        async def queried_often() -> bool:
            return rows.queries > 5

        await until(queried_often)
        assert learning.habits is known
        rows.error = RuntimeError("nobody expected this")
        rows.queries = 0
        await until(queried_often)
        rows.error = None
        rows.rows.append(a_completion(20))

        async def learned_again() -> bool:
            return learning.habits is not known

        await until(learned_again)
        stop.set()
        await loop
    assert [record.message for record in caplog.records] == [
        "the schedule cannot learn: the disk is full",
        "the schedule cannot learn: RuntimeError",
        "the schedule learns again",
    ]
