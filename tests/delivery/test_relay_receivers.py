"""A sink with several endpoints, and sinks that break the sink interface, step by step."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import a_task
from tests.support.conditions import until
from tests.support.relay_harness import ONE, THREE, TWO, RelayHarness
from tests.support.scripted_sink import NO, ScriptedSink, refused, taken
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.model.event import PublishedEvent

SECOND = timedelta(seconds=1)


ODD = frozenset(a_task(number).id for number in range(1, 61, 2))


def even(event: PublishedEvent) -> str:
    """Return one of two endpoints, by the task number."""
    return "odd" if event.subject in ODD else "even"


# ---- several endpoints of one sink


async def test_failing_endpoint_delays_no_other(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=even, answer=lambda event: NO if even(event) == "odd" else DELIVERED)
    numbers = list(range(1, 61)) * 2
    await relay.happen(*numbers)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert len(sink.received) == 60
    assert len(await relay.pending()) == 60
    tried = len(sink.sent) - 60
    assert tried <= 12
    for _ in range(20):
        relay.clock.advance(10 * SECOND)
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
    # The failing endpoint only gets a probe now and then.
    assert len(sink.sent) - 60 - tried <= 12
    sink.answer = taken
    for _ in range(4):
        relay.clock.advance(90 * SECOND)
        await relay.deliver_all_pending(worker)
        await worker.pending.hurry()
        await relay.deliver_all_pending(worker)
    assert await relay.pending() == []
    assert all(sink.of(a_task(number).id) == [2, 3] for number in range(1, 61))


@pytest.mark.parametrize("minutes", [300, 305, 310, 315])
async def test_endpoint_after_outage_gets_events_in_minutes(relay: RelayHarness, minutes: int) -> None:
    sink = ScriptedSink(where=even, answer=lambda event: NO if even(event) == "odd" else DELIVERED)
    await relay.happen(*range(1, 7))
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    for _ in range(minutes):
        relay.clock.advance(60 * SECOND)
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
    sink.answer = taken
    for _ in range(3):
        relay.clock.advance(60 * SECOND)
        await relay.deliver_all_pending(worker)
        await worker.pending.hurry()
        await relay.deliver_all_pending(worker)
    assert await relay.pending() == []


async def test_endpoint_down_for_days_gets_dead_letters(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=even, answer=lambda event: NO if even(event) == "odd" else DELIVERED)
    await relay.happen(*range(1, 42))
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    days = 0
    while await relay.pending():
        assert (days := days + 1) < 6, "it stays pending forever"
        await relay.happen(2)
        await relay.deliver_all_new(worker)
        for _ in range(24):
            relay.clock.advance(3_600 * SECOND)
            worker.hold(float("inf"))
            await relay.deliver_all_pending(worker)
    assert days >= 3
    dead = await relay.dead_letters()
    assert len(dead) == 21
    assert all(one.error for one in dead)
    assert sink.of(a_task(2).id) == list(range(2, 3 + days))


async def test_silent_endpoints_block_no_other(relay: RelayHarness) -> None:
    never = asyncio.Event()
    sink = ScriptedSink(
        where=lambda event: f"host of {event.subject}",
        held=lambda event: None if event.subject == a_task(1).id else never,
    )
    await relay.happen(1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    await relay.happen(*range(2, 5 * sink.width), 1)
    await relay.deliver_new(worker)
    assert sink.of(a_task(1).id) == [2, 3]
    assert sink.in_flight <= sink.width
    never.set()


async def test_worker_with_interrupted_lease_sends_nothing(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    worker = await relay.worker(sink)
    worker.hold(0)
    worker.hold(float("inf"))
    await relay.deliver_new(worker)
    assert sink.sent == []


async def test_slow_endpoint_delays_no_other(relay: RelayHarness) -> None:
    gate = asyncio.Event()
    sink = ScriptedSink(where=even, held=lambda event: gate if even(event) == "odd" else None)
    events = await relay.happen(1, 1, 2, 3, 4, 2)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert worker.cursor == events[-1].cursor
    assert (sink.of(TWO), sink.of(ONE)) == ([2, 3], [])
    await relay.happen(4, 1)
    await relay.deliver_all_new(worker)
    assert sink.of(a_task(4).id) == [2, 3]
    relay.clock.advance(5 * SECOND)
    await relay.deliver_all_pending(worker)
    assert sink.in_flight == 1, "an event in flight is not sent again, and its slow endpoint gets no other event"
    gate.set()
    for _ in range(10):
        await asyncio.sleep(0.01)
        relay.clock.advance(5 * SECOND)
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
    assert (sink.of(ONE), sink.of(THREE)) == ([2, 3, 4], [2])
    assert len(sink.received) == len({event.id for event in sink.received}) == 8
    assert await relay.pending() == []


async def test_slow_endpoint_gets_one_request_at_a_time(relay: RelayHarness) -> None:
    gate = asyncio.Event()
    sink = ScriptedSink(where=even)
    worker = await relay.worker(sink)
    await relay.happen(1, 2)
    await relay.deliver_all_new(worker)
    sink.held = lambda event: gate if even(event) == "odd" else None
    for number in range(3, 31):
        await relay.happen(number)
        await relay.deliver_all_new(worker)
        relay.clock.advance(5 * SECOND)
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
    assert len(sink.received) == 16
    assert (sink.in_flight, sink.most) == (1, 2)
    gate.set()

    async def written() -> bool:
        relay.clock.advance(60 * SECOND)
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
        return not await relay.pending()

    await until(written)
    assert len(sink.received) == len({event.id for event in sink.received}) == 30


async def test_sink_width_limits_events_in_flight(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=lambda event: event.subject, width=4)
    await relay.happen(*range(1, 31))
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert len(sink.received) == 30
    assert sink.most <= 4


# ---- sinks that break the sink interface


async def test_sink_exception_fails_without_its_text(relay: RelayHarness) -> None:
    def breaks(_: PublishedEvent) -> Outcome:
        raise RuntimeError("made-up-secret")

    sink = ScriptedSink(answer=breaks)
    await relay.happen(1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    (delivery,) = await relay.pending()
    assert delivery.error == "it broke with RuntimeError"


async def test_silent_sink_fails_in_time(relay: RelayHarness) -> None:
    relay.timing = replace(relay.timing, send=timedelta(milliseconds=20))
    sink = ScriptedSink(held=lambda _: asyncio.Event())
    await relay.happen(1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    (delivery,) = await relay.pending()
    assert (delivery.error, delivery.attempts, sink.in_flight) == ("no answer in time", 1, 0)


async def test_sink_with_missing_outcomes_fails(relay: RelayHarness) -> None:
    class Silent(ScriptedSink):
        async def send(self, events: object) -> list[Outcome]:
            del events
            return []

    await relay.happen(1)
    await relay.deliver_all_new(await relay.worker(Silent()))
    (delivery,) = await relay.pending()
    assert delivery.error == "it returned outcomes for 0 of 1 events"


async def test_unreadable_event_is_dead_letter_alone(relay: RelayHarness) -> None:
    def where(event: PublishedEvent) -> str:
        if event.subject == ONE:
            raise KeyError("made-up-secret")
        return "shop"

    sink = ScriptedSink(where=where)
    await relay.happen(2, 1, 3)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert [event.subject for event in sink.received] == [TWO, THREE]
    assert [each.error for each in await relay.dead_letters()] == ["its endpoint function raised KeyError"]


async def test_pending_event_outside_new_filter_is_dropped(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused)
    await relay.happen(1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    sink.where = lambda _: None
    relay.clock.advance(SECOND)
    await relay.deliver_all_pending(worker)
    assert await relay.pending() == []
    assert (await relay.state()).delivered == 0
