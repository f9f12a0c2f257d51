"""A receiver that is up again is told at once; others behind the same sink are left alone for as long as they wish."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.builders import a_task
from tests.support.databases import sqlite_url
from tests.support.relay_harness import RelayHarness, relay_harness
from tests.support.scripted_sink import NO, ScriptedSink, taken
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.timing import RELAY_TIMING
from tracker.delivery.worker import SinkWorker
from tracker.model.event import PublishedEvent

BUSY = Outcome(delivered=False, error="503", retry_after=timedelta(hours=1))
# Those whose receiver is another one.
ASKS_FOR_TIME = frozenset(a_task(number).id for number in (1, 2))


def where(told: PublishedEvent) -> str:
    return "asks for time" if told.subject in ASKS_FOR_TIME else "was down"


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayHarness]:
    # Pages that are shorter than what waits.
    timing = replace(RELAY_TIMING, grace=timedelta(milliseconds=50), page=3)
    async with relay_harness(sqlite_url(tmp_path), timing) as one:
        yield one


async def test_one_that_is_up_again_hurries_nothing_of_one_that_asked_for_time(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=where, answer=lambda told: BUSY if told.subject in ASKS_FOR_TIME else NO)
    await relay.happen(1, *range(3, 13), 2)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert [told.subject in ASKS_FOR_TIME for told in sink.sent].count(True) == 2
    # What is put aside for one that is down so long comes back by itself only after minutes.
    await minutes(relay, teller, 15)

    sink.answer = lambda told: BUSY if told.subject in ASKS_FOR_TIME else DELIVERED
    await minutes(relay, teller, 3)
    assert {told.subject for told in sink.received} == {a_task(number).id for number in range(3, 13)}
    assert [told.subject in ASKS_FOR_TIME for told in sink.sent].count(True) == 2
    assert {(owed.task_id in ASKS_FOR_TIME, owed.attempts) for owed in await relay.owed()} == {(True, 1)}

    sink.answer = taken
    await minutes(relay, teller, 60)
    assert await relay.owed() == []


async def minutes(relay: RelayHarness, teller: SinkWorker, count: int) -> None:
    for _ in range(count):
        relay.clock.advance(timedelta(minutes=1))
        teller.hold(float("inf"))
        await relay.all_owed(teller)
        for _ in range(5):  # a page each
            await teller.hurry()
            await relay.all_owed(teller)
