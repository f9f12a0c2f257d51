"""One sink with several receivers behind it, and sinks that do not keep their word, step by step as well."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import a_task
from tests.support.homing_server import until
from tests.support.relay_harness import ONE, THREE, TWO, RelayHarness
from tests.support.scripted_sink import NO, ScriptedSink, refused, taken
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.model.event import PublishedEvent

SECOND = timedelta(seconds=1)


ODD = frozenset(a_task(number).id for number in range(1, 61, 2))


def even(told: PublishedEvent) -> str:
    """Name one of two receivers, by the task's number."""
    return "odd" if told.subject in ODD else "even"


# ---- several receivers behind one sink


async def test_trouble_with_one_receiver_delays_no_other_and_loses_nothing(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=even, answer=lambda told: NO if even(told) == "odd" else DELIVERED)
    numbers = list(range(1, 61)) * 2
    await relay.happen(*numbers)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert len(sink.received) == 60
    assert len(await relay.owed()) == 60
    tried = len(sink.sent) - 60
    assert tried <= 12
    for _ in range(20):
        relay.clock.advance(10 * SECOND)
        teller.hold(float("inf"))
        await relay.all_owed(teller)
    # A probe now and then is all that it costs.
    assert len(sink.sent) - 60 - tried <= 12
    sink.answer = taken
    for _ in range(4):
        relay.clock.advance(90 * SECOND)
        await relay.all_owed(teller)
        await teller.hurry()
        await relay.all_owed(teller)
    assert await relay.owed() == []
    assert all(sink.of(a_task(number).id) == [2, 3] for number in range(1, 61))


@pytest.mark.parametrize("minutes", [300, 305, 310, 315])
async def test_a_receiver_that_was_down_for_long_is_told_within_minutes_once_it_is_up(
    relay: RelayHarness, minutes: int
) -> None:
    sink = ScriptedSink(where=even, answer=lambda told: NO if even(told) == "odd" else DELIVERED)
    await relay.happen(*range(1, 7))
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    for _ in range(minutes):
        relay.clock.advance(60 * SECOND)
        teller.hold(float("inf"))
        await relay.all_owed(teller)
    sink.answer = taken
    for _ in range(3):
        relay.clock.advance(60 * SECOND)
        await relay.all_owed(teller)
        await teller.hurry()
        await relay.all_owed(teller)
    assert await relay.owed() == []


async def test_what_a_receiver_that_is_gone_was_owed_for_days_is_given_up(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=even, answer=lambda told: NO if even(told) == "odd" else DELIVERED)
    await relay.happen(*range(1, 42))
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    days = 0
    while await relay.owed():
        assert (days := days + 1) < 6, "it is owed for ever"
        await relay.happen(2)
        await relay.all_new(teller)
        for _ in range(24):
            relay.clock.advance(3_600 * SECOND)
            teller.hold(float("inf"))
            await relay.all_owed(teller)
    assert days >= 3
    dead = await relay.dead()
    assert len(dead) == 21
    assert all(one.error for one in dead)
    assert sink.of(a_task(2).id) == list(range(2, 3 + days))


async def test_many_receivers_that_never_answer_keep_no_other_out(relay: RelayHarness) -> None:
    never = asyncio.Event()
    sink = ScriptedSink(
        where=lambda told: f"host of {told.subject}", held=lambda told: None if told.subject == a_task(1).id else never
    )
    await relay.happen(1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    await relay.happen(*range(2, 5 * sink.width), 1)
    await relay.new(teller)
    assert sink.of(a_task(1).id) == [2, 3]
    assert sink.in_flight <= sink.width
    never.set()


async def test_who_held_a_sink_no_more_for_a_while_goes_on_with_nothing(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    teller = await relay.teller(sink)
    teller.hold(0)
    teller.hold(float("inf"))
    await relay.new(teller)
    assert sink.sent == []


async def test_a_slow_receiver_lets_no_other_wait(relay: RelayHarness) -> None:
    gate = asyncio.Event()
    sink = ScriptedSink(where=even, held=lambda told: gate if even(told) == "odd" else None)
    events = await relay.happen(1, 1, 2, 3, 4, 2)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert teller.cursor == events[-1].cursor
    assert (sink.of(TWO), sink.of(ONE)) == ([2, 3], [])
    await relay.happen(4, 1)
    await relay.all_new(teller)
    assert sink.of(a_task(4).id) == [2, 3]
    relay.clock.advance(5 * SECOND)
    await relay.all_owed(teller)
    assert sink.in_flight == 1, "what is on its way is not sent again, and nothing else where it is slow"
    gate.set()
    for _ in range(10):
        await asyncio.sleep(0.01)
        relay.clock.advance(5 * SECOND)
        teller.hold(float("inf"))
        await relay.all_owed(teller)
    assert (sink.of(ONE), sink.of(THREE)) == ([2, 3, 4], [2])
    assert len(sink.received) == len({told.id for told in sink.received}) == 8
    assert await relay.owed() == []


async def test_a_receiver_that_becomes_slow_gets_nothing_more_until_it_has_answered(relay: RelayHarness) -> None:
    gate = asyncio.Event()
    sink = ScriptedSink(where=even)
    teller = await relay.teller(sink)
    await relay.happen(1, 2)
    await relay.all_new(teller)
    sink.held = lambda told: gate if even(told) == "odd" else None
    for number in range(3, 31):
        await relay.happen(number)
        await relay.all_new(teller)
        relay.clock.advance(5 * SECOND)
        teller.hold(float("inf"))
        await relay.all_owed(teller)
    assert len(sink.received) == 16
    assert (sink.in_flight, sink.most) == (1, 2)
    gate.set()

    async def written() -> bool:
        relay.clock.advance(60 * SECOND)
        teller.hold(float("inf"))
        await relay.all_owed(teller)
        return not await relay.owed()

    await until(written)
    assert len(sink.received) == len({told.id for told in sink.received}) == 30


async def test_no_more_is_sent_at_once_than_the_sink_takes(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=lambda told: told.subject, width=4)
    await relay.happen(*range(1, 31))
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert len(sink.received) == 30
    assert sink.most <= 4


# ---- sinks that do not keep their word


async def test_a_sink_that_breaks_has_failed_and_its_words_are_kept_from_everybody(relay: RelayHarness) -> None:
    def breaks(_: PublishedEvent) -> Outcome:
        raise RuntimeError("made-up-secret")

    sink = ScriptedSink(answer=breaks)
    await relay.happen(1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    (delivery,) = await relay.owed()
    assert delivery.error == "it broke with RuntimeError"


async def test_a_sink_that_never_answers_has_failed_in_time(relay: RelayHarness) -> None:
    relay.timing = replace(relay.timing, send=timedelta(milliseconds=20))
    sink = ScriptedSink(held=lambda _: asyncio.Event())
    await relay.happen(1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    (delivery,) = await relay.owed()
    assert (delivery.error, delivery.attempts, sink.in_flight) == ("no answer in time", 1, 0)


async def test_a_sink_that_tells_too_little_has_failed(relay: RelayHarness) -> None:
    class Silent(ScriptedSink):
        async def send(self, events: object) -> list[Outcome]:
            del events
            return []

    await relay.happen(1)
    await relay.all_new(await relay.teller(Silent()))
    (delivery,) = await relay.owed()
    assert delivery.error == "it returned outcomes for 0 of 1 events"


async def test_an_event_that_a_sink_cannot_read_is_dead_and_holds_up_no_other(relay: RelayHarness) -> None:
    def where(told: PublishedEvent) -> str:
        if told.subject == ONE:
            raise KeyError("made-up-secret")
        return "shop"

    sink = ScriptedSink(where=where)
    await relay.happen(2, 1, 3)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert [told.subject for told in sink.received] == [TWO, THREE]
    assert [each.error for each in await relay.dead()] == ["it broke with KeyError when asked where this goes"]


async def test_what_is_owed_and_for_the_sink_no_more_is_dropped(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused)
    await relay.happen(1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    sink.where = lambda _: None
    relay.clock.advance(SECOND)
    await relay.all_owed(teller)
    assert await relay.owed() == []
    assert (await relay.state()).delivered == 0
