"""Telling one sink, step by step, over a real store and under a clock that is told the time."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import NOW, a_sink, a_task
from tests.support.homing_server import until
from tests.support.relay_harness import ONE, THREE, TWO, RelayHarness
from tests.support.scripted_sink import NO, ScriptedSink, refused, taken
from tracker.delivery import backoff
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.timing import RELAY_TIMING
from tracker.delivery.worker import SinkWorker
from tracker.model.event import PublishedEvent
from tracker.model.sinks import ReplayFilter

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
LEASE = RELAY_TIMING.lease


def poison(*subjects: str, outcome: Outcome = NO, sequence: int = 2) -> "Poison":
    return Poison(subjects, outcome, sequence)


class Poison:
    """Refuses one event of some tasks."""

    def __init__(self, subjects: tuple[str, ...], outcome: Outcome, sequence: int) -> None:
        self.subjects = subjects
        self.outcome = outcome
        self.sequence = sequence

    def __call__(self, told: PublishedEvent) -> Outcome:
        return self.outcome if told.subject in self.subjects and told.sequence == self.sequence else DELIVERED


# ---- while it goes well


async def test_all_is_told_in_the_order_of_each_task_and_no_task_twice_at_once(relay: RelayHarness) -> None:
    sink = ScriptedSink(width=3)
    events = await relay.happen(1, 1, 2, 3, 4, 2, 1, 5)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert sorted(told.cursor for told in sink.received) == [told.cursor for told in events]
    assert sink.of(ONE) == [2, 3, 4]
    assert max(sink.waves) <= 3
    assert await relay.owed() == []
    await teller.finish()
    state = await relay.state()
    assert (state.cursor, state.delivered, state.behind, state.delivered_at) == (events[-1].cursor, 8, 0, NOW)


async def test_what_is_not_for_the_sink_is_passed_over(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=lambda told: "shop" if told.subject == TWO else None)
    events = await relay.happen(1, 2, 1, 3)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    await teller.finish()
    assert [told.subject for told in sink.sent] == [TWO]
    state = await relay.state()
    assert (state.cursor, state.delivered) == (events[-1].cursor, 1)


async def test_what_was_sent_and_not_written_down_is_sent_again_under_the_same_id(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1, 2)
    await relay.all_new(await relay.teller(sink))  # and it is never heard of again
    relay.clock.advance(LEASE)
    heir = await relay.teller(sink, "heir")
    await relay.all_new(heir)
    assert [told.id for told in sink.received] == [f"{ONE}-2", f"{TWO}-2"] * 2
    await heir.finish()
    relay.clock.advance(LEASE)
    await relay.all_new(await relay.teller(sink, "third"))
    assert len(sink.received) == 4


# ---- one event that fails


async def test_a_failing_event_holds_back_only_its_own_task(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(2, 1, 1, 2, 3)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert (sink.of(ONE), sink.of(TWO), sink.of(THREE)) == ([], [2, 3], [2])
    await relay.happen(1, 3)
    await relay.all_new(teller)
    assert (sink.of(ONE), sink.of(THREE)) == ([], [2, 3])
    assert [(each.attempts, each.error) for each in await relay.owed()] == [(1, "refused"), (0, ""), (0, "")]
    sink.answer = taken
    await relay.all_owed(teller)
    assert sink.of(ONE) == [], "it is not due yet"
    relay.clock.advance(SECOND)
    await relay.all_owed(teller)
    assert sink.of(ONE) == [2, 3, 4]
    assert await relay.owed() == []


async def test_it_is_tried_again_later_and_later(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 2)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    waits = []
    for _ in range(14):
        (delivery,) = await relay.owed()
        assert delivery.next_at is not None
        waits.append((delivery.next_at - relay.clock()).total_seconds())
        relay.clock.now = delivery.next_at
        teller.hold(float("inf"))
        await relay.all_owed(teller)
    # Half of 1 s, 2 s, 4 s … since chance is one half here.
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800]
    assert [told.id for told in sink.sent if told.subject == ONE] == [f"{ONE}-2"] * 15


@pytest.mark.parametrize(("asked", "given"), [(90 * SECOND, 90 * SECOND), (9 * HOUR, HOUR), (-SECOND, SECOND / 2)])
async def test_the_receivers_own_wish_is_heard_within_bounds(
    relay: RelayHarness, asked: timedelta, given: timedelta
) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="busy", retry_after=asked)))
    await relay.happen(2, 1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    (delivery,) = await relay.owed()
    assert delivery.next_at == NOW + given


async def patience(relay: RelayHarness, teller: SinkWorker, *, meanwhile: int | None) -> None:
    """Let three days go by, in which a task has an event now and then."""
    end = relay.clock() + backoff.PATIENCE + HOUR
    while relay.clock() < end:
        teller.hold(float("inf"))
        relay.clock.advance(HOUR)
        if meanwhile is not None:
            await relay.happen(meanwhile)
        await relay.all_new(teller)
        await relay.all_owed(teller)


async def test_after_three_days_it_is_dead_and_its_task_goes_on(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 1, 2)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    await patience(relay, teller, meanwhile=2)
    (dead,) = await relay.dead()
    assert (dead.event_id, dead.next_at) == (f"{ONE}-2", None)
    assert dead.attempts >= backoff.ATTEMPTS
    assert sink.of(ONE) == [3]
    assert await relay.owed() == []


async def test_nothing_dies_while_the_sink_takes_nothing_at_all(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused)
    await relay.happen(1, 1, 2)
    teller = await relay.teller(sink)
    await patience(relay, teller, meanwhile=None)
    assert len(sink.sent) > 50
    assert await relay.dead() == []
    sink.answer = taken
    relay.clock.advance(HOUR)
    await relay.all_new(teller)
    await relay.all_owed(teller)
    assert (sink.of(ONE), sink.of(TWO)) == ([2, 3], [2])


async def test_what_can_never_do_is_dead_at_once_and_the_log_says_so(
    relay: RelayHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="too large", hopeless=True)))
    await relay.happen(1, 1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    assert [each.error for each in await relay.dead()] == ["too large"]
    assert sink.of(ONE) == [3]
    assert [line for line in caplog.messages if "dead letters" in line] == [
        f"sink {sink.name}: 1 dead letters, see homing deliveries --dead-letter"
    ]


async def test_a_dead_one_that_is_told_again_keeps_its_sequence(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="too large", hopeless=True)))
    await relay.happen(1, 1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    sink.answer = taken
    assert (
        await relay.store.deliveries.replay("shop", ReplayFilter(dead=True), lambda _: True, now=NOW, dry_run=False)
        == 1
    )
    await relay.all_owed(teller)
    assert [told.sequence for told in sink.received] == [3, 2]
    assert await relay.dead() == []


# ---- a sink that is down


async def test_a_sink_that_is_down_owes_few_rows_and_gets_everything_in_order_once_it_is_up(
    relay: RelayHarness,
) -> None:
    sink = ScriptedSink(answer=refused, width=100)
    numbers = [number % 40 for number in range(400)]
    events = await relay.happen(*numbers)
    teller = await relay.teller(sink)
    for _ in range(20):
        await relay.all_new(teller)
        await relay.all_owed(teller)
        relay.clock.advance(30 * SECOND)
        teller.hold(float("inf"))
    assert len(await relay.owed()) <= 25
    assert len(sink.sent) <= 25
    state = await relay.state()
    assert state.failures == len(sink.sent)
    assert state.retry_at is not None
    sink.answer = taken
    for _ in range(3):
        relay.clock.advance(90 * SECOND)
        await relay.all_new(teller)
        await teller.hurry()
        await relay.all_owed(teller)
    assert await relay.owed() == []
    assert len(sink.received) == len(events)
    for number in range(40):
        assert sink.of(a_task(number).id) == list(range(2, 12))
    await teller.finish()
    assert (await relay.state()).failures == 0


async def test_it_is_probed_with_one_event_at_a_time_less_and_less_often(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused, width=100)
    await relay.happen(*range(1, 51))
    teller = await relay.teller(sink)
    before = 0
    seen = []
    for second in range(300):
        await relay.all_new(teller)
        await relay.all_owed(teller)
        if len(sink.sent) > before:
            seen.append(second)
            before = len(sink.sent)
        relay.clock.advance(SECOND)
        teller.hold(float("inf"))
    assert set(sink.waves) == {1}
    assert 8 <= len(seen) <= 20


async def test_its_own_wish_to_be_left_alone_is_heard(relay: RelayHarness) -> None:
    busy = Outcome(delivered=False, error="busy", retry_after=300 * SECOND)
    sink = ScriptedSink(answer=lambda _: busy)
    await relay.happen(*range(1, 51))
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    told = len(sink.sent)
    relay.clock.advance(299 * SECOND)
    teller.hold(float("inf"))
    await relay.all_new(teller)
    await relay.all_owed(teller)
    assert len(sink.sent) == told
    relay.clock.advance(SECOND)
    await relay.all_new(teller)
    await relay.all_owed(teller)
    assert len(sink.sent) == told + 1


async def test_one_event_that_is_always_refused_does_not_stall_the_others(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1)
    teller = await relay.teller(sink)
    for number in range(2, 40):
        teller.hold(float("inf"))
        await relay.all_new(teller)
        await relay.all_owed(teller)
        relay.clock.advance(2 * SECOND)
        await relay.happen(number)
        await relay.all_new(teller)
        assert sink.of(a_task(number).id) == [2], "it goes at once"


async def test_a_few_events_that_are_always_refused_delay_the_others_by_seconds_only(relay: RelayHarness) -> None:
    bad = tuple(a_task(number).id for number in range(1, 6))
    sink = ScriptedSink(answer=poison(*bad))
    await relay.happen(1, 2, 3, 4, 5)
    teller = await relay.teller(sink)
    for number in range(6, 30):
        await relay.happen(number)
        for _ in range(100):
            teller.hold(float("inf"))
            await relay.all_new(teller)
            await teller.hurry()
            await relay.all_owed(teller)
            if sink.of(a_task(number).id):
                break
            relay.clock.advance(SECOND)
        assert sink.of(a_task(number).id) == [2]
    # The first of them has to wait for a probe at the time of the worst; they take turns.
    assert relay.clock() - NOW < 24 * 3 * SECOND


async def test_a_sink_that_wants_no_more_is_off_and_gets_the_rest_when_it_is_turned_on(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="gone", gone=True)), width=1)
    await relay.happen(2, 1, 1, 3)
    teller = await relay.teller(sink)
    await teller.run(asyncio.Event())
    state = await relay.state()
    assert (state.on, state.last_error, [told.subject for told in sink.sent]) == (False, "gone", [TWO, ONE])
    sink.answer = taken
    await relay.store.sinks.switch("shop", on=True, now=relay.clock())
    again = await relay.teller(sink)
    await relay.all_new(again)
    await relay.all_owed(again)
    assert (sink.of(ONE), sink.of(TWO), sink.of(THREE)) == ([2, 3], [2], [2])
    assert len(sink.received) == 4


# ---- leases


async def test_who_lost_the_sink_stops_at_once_and_writes_nothing(relay: RelayHarness) -> None:
    relay.timing = replace(relay.timing, page=1)
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 2, 3, 4)
    sleeper = await relay.teller(sink)
    relay.clock.advance(LEASE)
    heir = await relay.teller(ScriptedSink(), "heir")
    await relay.all_new(heir)
    await heir.finish()
    before = await relay.state()
    await relay.all_new(sleeper)
    await sleeper.finish()
    assert [told.subject for told in sink.sent] == [ONE]
    assert await relay.state() == before
    assert await relay.owed() == []


async def test_who_did_not_renew_in_time_sends_nothing(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    teller = await relay.teller(sink)
    teller.hold(asyncio.get_running_loop().time())
    await relay.all_new(teller)
    assert sink.sent == []


async def test_a_sink_that_an_operator_moved_on_is_told_from_there(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    teller = await relay.teller(sink)
    await relay.all_new(teller)
    await relay.happen(2)
    await relay.store.sinks.switch("shop", on=True, now=NOW, from_now=True)
    await teller.finish()
    assert (await relay.state()).behind == 0
    await relay.store.sinks.register([a_sink(name="shop", address="x:")], now=NOW)
    again = await relay.teller(sink)
    await relay.all_new(again)
    assert [told.subject for told in sink.received] == [ONE]


# ---- what an operator sees of a sink that fails


def said_of(caplog: pytest.LogCaptureFixture, name: str = "shop") -> list[str]:
    """Return what the log says of a sink, each line up to its reason."""
    lines = [record.getMessage() for record in caplog.records if record.name == "homing.relay"]
    return [line.partition(":")[0] for line in lines if line.startswith(f"sink {name} ")]


async def test_failing_sink_is_logged_once_until_it_works(
    relay: RelayHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(answer=refused)
    teller = await relay.teller(sink)
    await relay.happen(1)
    await relay.new(teller)
    for _ in range(8):
        relay.clock.advance(HOUR)
        await teller.deliver_pending()
    assert said_of(caplog) == ["sink shop fails, and is tried again"]

    sink.answer = taken
    relay.clock.advance(HOUR)
    await teller.deliver_pending()
    await relay.happen(1)
    await relay.new(teller)

    assert len(sink.received) == 2
    assert said_of(caplog) == ["sink shop fails, and is tried again", "sink shop works again"]


async def test_failing_sink_shows_its_next_attempt_from_the_first(relay: RelayHarness) -> None:
    teller = await relay.teller(ScriptedSink(answer=refused))
    await relay.happen(1)
    await relay.new(teller)
    await teller.finish()

    (owed,) = await relay.owed()
    state = await relay.state()

    assert (state.retry_at, state.last_error) == (owed.next_at, "refused")
    assert owed.next_at is not None
    assert owed.next_at > relay.clock()


async def test_sink_that_cannot_be_opened_shows_its_next_attempt(
    relay: RelayHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(broken=OSError())
    teller = await relay.teller(sink)
    stop = asyncio.Event()
    opening = asyncio.create_task(teller.open(stop))

    async def tried_twice() -> bool:
        return sink.opened == 2

    await until(tried_twice)
    state = await relay.state()
    sink.broken = None
    await opening

    assert state.retry_at is not None
    assert state.retry_at > relay.clock()
    assert said_of(caplog) == ["sink shop fails, and is tried again", "sink shop works again"]
