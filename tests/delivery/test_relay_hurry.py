"""A recovered endpoint gets its events at once. Other endpoints of the same sink keep their Retry-After."""

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
# The tasks whose endpoint answers with Retry-After.
ASKS_FOR_TIME = frozenset(a_task(number).id for number in (1, 2))


def where(event: PublishedEvent) -> str:
    return "asks for time" if event.subject in ASKS_FOR_TIME else "was down"


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayHarness]:
    # A page is smaller than the number of pending deliveries.
    timing = replace(RELAY_TIMING, grace=timedelta(milliseconds=50), page=3)
    async with relay_harness(sqlite_url(tmp_path), timing) as one:
        yield one


async def test_recovered_endpoint_leaves_retry_after_of_others(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=where, answer=lambda event: BUSY if event.subject in ASKS_FOR_TIME else NO)
    await relay.happen(1, *range(3, 13), 2)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert [event.subject in ASKS_FOR_TIME for event in sink.sent].count(True) == 2
    # After a long outage, the retry delay of a delivery is several minutes.
    await minutes(relay, worker, 15)

    sink.answer = lambda event: BUSY if event.subject in ASKS_FOR_TIME else DELIVERED
    await minutes(relay, worker, 3)
    assert {event.subject for event in sink.received} == {a_task(number).id for number in range(3, 13)}
    assert [event.subject in ASKS_FOR_TIME for event in sink.sent].count(True) == 2
    assert {(delivery.task_id in ASKS_FOR_TIME, delivery.attempts) for delivery in await relay.pending()} == {(True, 1)}

    sink.answer = taken
    await minutes(relay, worker, 60)
    assert await relay.pending() == []


async def minutes(relay: RelayHarness, worker: SinkWorker, count: int) -> None:
    for _ in range(count):
        relay.clock.advance(timedelta(minutes=1))
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
        for _ in range(5):  # one page each time
            await worker.pending.hurry()
            await relay.deliver_all_pending(worker)
