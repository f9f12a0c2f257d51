"""The clock is set by hours while Homing runs or is stopped. No wait becomes hours longer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.builders import OMNI
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling
from tracker.app import create_tracker, reconciler_of
from tracker.errors import NotFound, Refused
from tracker.model.task import ClientIdentity, Status, Task
from tracker.providers.base import Account, Call, Reply
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

STUDIO = ClientIdentity(name="studio")
HOURS = timedelta(hours=5)
BUSY = Reply(status=429, body=b'{"code": 1303, "message": "too many requests", "request_id": "r-1"}')


@dataclass(slots=True, kw_only=True)
class CountedKling(FakeKling):
    """A provider that counts requests. It refuses ``busy`` polls, and a create request takes ``slow``."""

    busy: int = 0
    slow: timedelta = timedelta()
    calls: list[str] = field(default_factory=list)

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        self.calls.append(call.method)
        if call.method == "POST":
            self.clock.advance(self.slow)
        elif self.busy > 0:
            self.busy -= 1
            return BUSY
        return await FakeKling.send(self, account, call, now=now, within=within)


@asynccontextmanager
async def tracking(folder: Path, kling: FakeKling) -> AsyncIterator[Tracker]:
    chosen = Settings(
        database_url=sqlite_url(folder),
        kling_base_url="https://kling.example",
        kling_api_key="made-up-key",
    )
    clock = kling.clock
    policy = Policy(busy_delay=timedelta())
    async with create_tracker(
        chosen, policy=policy, clock=clock, monotonic=clock.monotonic, transport=kling
    ) as tracker:
        yield tracker


async def submitted(tracker: Tracker, prompt: str = "a red bicycle") -> Task:
    return await tracker.submit(STUDIO, "kling", tracker.order("kling", OMNI, {"prompt": prompt}))


async def rounds(tracker: Tracker, clock: Clock, count: int, step: timedelta) -> None:
    reconciler = reconciler_of(tracker)
    for _ in range(count):
        clock.advance(step)
        await reconciler.run_once()


async def test_account_pause_ends_after_clock_set_back(tmp_path: Path) -> None:
    kling = CountedKling(clock=Clock(), busy=1)
    async with tracking(tmp_path, kling) as tracker:
        task = await submitted(tracker)
        reconciler = reconciler_of(tracker)
        kling.clock.advance(timedelta(minutes=1))
        await reconciler.run_once()
        kling.ledger[-1].status = "succeed"

        kling.clock.set(-HOURS)
        kling.ledger[-1].made_at -= HOURS
        for _ in range(3):
            kling.clock.advance(timedelta(seconds=30))
            await reconciler.run_once()

        assert (await tracker.get(STUDIO, task.id)).status is Status.SUCCEEDED


@pytest.mark.parametrize("restarted", [False, True])
async def test_poll_planned_by_fast_clock_is_due(tmp_path: Path, *, restarted: bool) -> None:
    kling = CountedKling(clock=Clock())
    async with tracking(tmp_path, kling) as tracker:
        kling.clock.set(HOURS)
        task = await submitted(tracker)
        kling.ledger[-1].status = "succeed"
        if not restarted:
            await rounds(tracker, kling.clock, 1, timedelta(seconds=1))
            kling.clock.set(-HOURS)
            kling.ledger[-1].made_at -= HOURS
            await rounds(tracker, kling.clock, 1, timedelta(seconds=1))
            assert (await tracker.get(STUDIO, task.id)).status is Status.SUCCEEDED
            return
    kling.clock.set(-HOURS)
    kling.ledger[-1].made_at -= HOURS
    async with tracking(tmp_path, kling) as tracker:
        await rounds(tracker, kling.clock, 1, timedelta(seconds=1))

        assert (await tracker.get(STUDIO, task.id)).status is Status.SUCCEEDED


async def test_run_time_over_a_clock_step_delays_no_poll(tmp_path: Path) -> None:
    """A task that ran while the clock was set forward seems to have run for hours. Homing learns that run time."""
    kling = CountedKling(clock=Clock())
    async with tracking(tmp_path, kling) as tracker:
        await submitted(tracker)
        await rounds(tracker, kling.clock, 1, timedelta(seconds=1))
        kling.clock.set(HOURS)
        kling.ledger[-1].status = "succeed"
        await rounds(tracker, kling.clock, 3, timedelta(minutes=1))
        kling.clock.advance(timedelta(hours=1))
        await tracker.learner.learn()
        assert any(
            known.ascending[-1] > HOURS.total_seconds() / 2 for known in tracker.learner.habits.run_times.values()
        )
        task = await submitted(tracker, "a blue bicycle")
        kling.ledger[-1].status = "succeed"

        kling.clock.set(-HOURS)
        kling.ledger[-1].made_at -= HOURS
        await rounds(tracker, kling.clock, 1, timedelta(seconds=1))

        assert (await tracker.get(STUDIO, task.id)).status is Status.SUCCEEDED


async def test_submit_ends_in_time_after_clock_set_back(tmp_path: Path) -> None:
    kling = CountedKling(clock=Clock(), slow=timedelta(seconds=20), plan=["busy"])
    async with tracking(tmp_path, kling) as tracker:
        kling.clock.set(HOURS)
        submitting = submitted(tracker)
        kling.slow = timedelta(seconds=20)

        with pytest.raises(Refused):
            await submitting

        assert kling.calls == ["POST"]


async def test_clock_set_forward_counts_no_early_denial(tmp_path: Path) -> None:
    """An attempt that has just ended looks hours old. A denial at that moment must not count."""
    kling = CountedKling(clock=Clock())
    async with tracking(tmp_path, kling) as tracker:
        await submitted(tracker)
        await rounds(tracker, kling.clock, 2, timedelta(minutes=1))
        kling.plan, kling.calls = ["made late"], []
        lost = await submitted(tracker, "a blue bicycle")
        kling.ledger[-1].made_at += HOURS

        kling.clock.set(HOURS)
        await rounds(tracker, kling.clock, 4, timedelta(seconds=5))

        assert kling.calls.count("POST") == 1
        await rounds(tracker, kling.clock, 12, timedelta(seconds=10))
        assert (await tracker.get(STUDIO, lost.id)).status is not Status.PENDING
        assert kling.calls.count("POST") == 1


async def test_unknown_id_is_polled_after_clock_set_back(tmp_path: Path) -> None:
    kling = CountedKling(clock=Clock())
    async with tracking(tmp_path, kling) as tracker:
        calls = []
        for back in (timedelta(), HOURS):
            kling.clock.set(-back)
            kling.clock.advance(timedelta(seconds=11))
            with pytest.raises(NotFound):
                await tracker.fetch(STUDIO, "nobody", provider="kling", kind=OMNI)
            calls.append(len(kling.calls))

        assert calls == [1, 2]


async def test_lost_submission_is_polled_after_clock_set_back(tmp_path: Path) -> None:
    """The deadline of its attempt is hours away then. No poll may take the attempt for one that is in progress."""
    kling = CountedKling(clock=Clock(), plan=["reply lost"])
    async with tracking(tmp_path, kling) as tracker:
        kling.clock.set(HOURS)
        lost = await submitted(tracker)
        kling.clock.set(-HOURS)
        kling.ledger[-1].made_at -= HOURS  # the provider's clock was right
        kling.down = True
        await rounds(tracker, kling.clock, 2, timedelta(seconds=10))

        kling.down = False
        await rounds(tracker, kling.clock, 8, timedelta(seconds=10))

        assert (await tracker.get(STUDIO, lost.id)).status is Status.SUBMITTED
