"""A receiver that is up again is told at once; others behind the same sink are left alone for as long as they wish."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.builders import a_task
from tests.databases import sqlite_url
from tests.relay_stage import Stage, stage
from tests.scripted_sink import NO, ScriptedSink, taken
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
async def on(tmp_path: Path) -> AsyncIterator[Stage]:
    # Pages that are shorter than what waits.
    timing = replace(RELAY_TIMING, grace=timedelta(milliseconds=50), page=3)
    async with stage(sqlite_url(tmp_path), timing) as one:
        yield one


async def test_one_that_is_up_again_hurries_nothing_of_one_that_asked_for_time(on: Stage) -> None:
    sink = ScriptedSink(where=where, answer=lambda told: BUSY if told.subject in ASKS_FOR_TIME else NO)
    await on.happen(1, *range(3, 13), 2)
    teller = await on.teller(sink)
    await on.all_new(teller)
    assert [told.subject in ASKS_FOR_TIME for told in sink.sent].count(True) == 2
    # What is put aside for one that is down so long comes back by itself only after minutes.
    await minutes(on, teller, 15)

    sink.answer = lambda told: BUSY if told.subject in ASKS_FOR_TIME else DELIVERED
    await minutes(on, teller, 3)
    assert {told.subject for told in sink.received} == {a_task(number).id for number in range(3, 13)}
    assert [told.subject in ASKS_FOR_TIME for told in sink.sent].count(True) == 2
    assert {(owed.task_id in ASKS_FOR_TIME, owed.attempts) for owed in await on.owed()} == {(True, 1)}

    sink.answer = taken
    await minutes(on, teller, 60)
    assert await on.owed() == []


async def minutes(on: Stage, teller: SinkWorker, count: int) -> None:
    for _ in range(count):
        on.clock.advance(timedelta(minutes=1))
        teller.hold(float("inf"))
        await on.all_owed(teller)
        for _ in range(5):  # a page each
            await teller.hurry()
            await on.all_owed(teller)
