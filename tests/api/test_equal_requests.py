"""Equal request bodies without a client ID at two replicas make two tasks, unless the first server crashed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
import pytest

from homing.serve import membership_of
from tests.support.fakes import Clock, FakeKling
from tests.support.homing_server import ANYBODY, KIND
from tests.support.postgres import Postgres
from tracker.app import create_tracker
from tracker.loops.membership import HeartbeatTiming
from tracker.model.clock import SteeredClock, utc_now
from tracker.model.task import Task
from tracker.providers.base import Account, Call, Reply
from tracker.service.tracker import Tracker
from tracker.settings import Settings

QUICK = HeartbeatTiming(heartbeat=timedelta(milliseconds=50), silence=timedelta(seconds=10))
# The process stops as if it were killed.
ONCE = HeartbeatTiming(heartbeat=timedelta(hours=1))


@dataclass(slots=True, kw_only=True)
class Slow(FakeKling):
    """A provider that creates the first task and holds its answer."""

    answer_gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        first = call.method == "POST" and not self.ledger
        reply = await super(Slow, self).send(account, call, now=now, within=within)
        if first:
            self.hanging.set()
            await self.answer_gate.wait()
        return reply

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Release the first answer at the end, even after a failure."""
        try:
            yield
        finally:
            self.answer_gate.set()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def replica(
    stack: AsyncExitStack, url: str, kling: FakeKling, *, heartbeat_timing: HeartbeatTiming = QUICK
) -> Tracker:
    clock = SteeredClock()
    settings = Settings(database_url=url, kling_api_key="made-up-key")
    tracker = await stack.enter_async_context(create_tracker(settings, clock=clock, transport=kling))
    await stack.enter_async_context(membership_of(tracker, clock, heartbeat_timing=heartbeat_timing))
    return tracker


def submit_cat(tracker: Tracker) -> "asyncio.Task[Task]":
    order = tracker.order("kling", KIND, {"prompt": "a cat"})
    return asyncio.create_task(tracker.submit(ANYBODY, "kling", order, answered_later=True))


async def test_equal_requests_at_two_replicas_are_two_tasks(stack: AsyncExitStack, url: str) -> None:
    kling = Slow(clock=Clock(utc_now()))
    one, other = [await replica(stack, url, kling) for _ in range(2)]
    first = submit_cat(one)
    await kling.hanging.wait()
    async with kling.holding(), asyncio.timeout(10):
        second = await submit_cat(other)
    assert second.id != (await first).id
    assert len(kling.ledger) == 2


async def test_equal_request_after_server_crash_is_one_task(stack: AsyncExitStack, url: str) -> None:
    kling = Slow(clock=Clock(utc_now()))
    dying = await replica(stack, url, kling, heartbeat_timing=ONCE)
    other = await replica(stack, url, kling)
    lost = submit_cat(dying)
    await kling.hanging.wait()
    async with kling.holding():
        again = submit_cat(other)
        # The other replica does not know yet whether the first server is dead.
        await asyncio.wait([again], timeout=1)
        assert not again.done()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE servers SET seen_at = seen_at - 86400000000 WHERE owner = %s", [dying.owner])
        async with asyncio.timeout(10):
            task = await again
    assert task.id == (await lost).id == kling.ledger[0].external_id
    assert len(kling.ledger) == 1
