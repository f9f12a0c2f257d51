"""Equal bodies without any id of their client's, at two replicas: two wishes, unless the first server died over it."""

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
from tracker.loops.membership import Rhythm
from tracker.model.clock import SteeredClock, utc_now
from tracker.model.task import Task
from tracker.providers.base import Account, Call, Reply
from tracker.service.tracker import Tracker
from tracker.settings import Settings

QUICK = Rhythm(heartbeat=timedelta(milliseconds=50), silence=timedelta(seconds=10))
# As one that is killed: it is never heard again.
ONCE = Rhythm(heartbeat=timedelta(hours=1))


@dataclass(slots=True, kw_only=True)
class Slow(FakeKling):
    """Makes the first task, and keeps its answer back."""

    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        first = call.method == "POST" and not self.ledger
        reply = await super(Slow, self).send(account, call, now=now, within=within)
        if first:
            self.hanging.set()
            await self.told.wait()
        return reply

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Let the first answer go at the end, whatever happens."""
        try:
            yield
        finally:
            self.told.set()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def replica(stack: AsyncExitStack, url: str, kling: FakeKling, *, rhythm: Rhythm = QUICK) -> Tracker:
    clock = SteeredClock()
    settings = Settings(database_url=url, kling_api_key="made-up-key")
    tracker = await stack.enter_async_context(create_tracker(settings, clock=clock, transport=kling))
    await stack.enter_async_context(membership_of(tracker, clock, rhythm=rhythm))
    return tracker


def wish(tracker: Tracker) -> "asyncio.Task[Task]":
    order = tracker.order("kling", KIND, {"prompt": "a cat"})
    return asyncio.create_task(tracker.submit(ANYBODY, "kling", order, answered_later=True))


async def test_two_equal_wishes_at_two_living_replicas_are_two_tasks(stack: AsyncExitStack, url: str) -> None:
    kling = Slow(clock=Clock(utc_now()))
    one, other = [await replica(stack, url, kling) for _ in range(2)]
    first = wish(one)
    await kling.hanging.wait()
    async with kling.holding(), asyncio.timeout(10):
        second = await wish(other)
    assert second.id != (await first).id
    assert len(kling.ledger) == 2


async def test_a_wish_that_comes_again_because_its_server_died_is_one_task(stack: AsyncExitStack, url: str) -> None:
    kling = Slow(clock=Clock(utc_now()))
    dying = await replica(stack, url, kling, rhythm=ONCE)
    other = await replica(stack, url, kling)
    lost = wish(dying)
    await kling.hanging.wait()
    async with kling.holding():
        again = wish(other)
        # It is not known yet whether the first server is dead.
        await asyncio.wait([again], timeout=1)
        assert not again.done()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE servers SET seen_at = seen_at - 86400000000 WHERE owner = %s", [dying.owner])
        async with asyncio.timeout(10):
            task = await again
    assert task.id == (await lost).id == kling.ledger[0].external_id
    assert len(kling.ledger) == 1
