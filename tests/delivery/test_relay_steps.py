"""A sink worker, step by step, over a real store and with a fake clock."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.builders import NOW, a_sink, a_task
from tests.support.conditions import until
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

    def __call__(self, event: PublishedEvent) -> Outcome:
        return self.outcome if event.subject in self.subjects and event.sequence == self.sequence else DELIVERED


# ---- normal delivery


async def test_delivery_keeps_order_within_each_task(relay: RelayHarness) -> None:
    sink = ScriptedSink(width=3)
    events = await relay.happen(1, 1, 2, 3, 4, 2, 1, 5)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert sorted(event.cursor for event in sink.received) == [event.cursor for event in events]
    assert sink.of(ONE) == [2, 3, 4]
    assert max(sink.waves) <= 3
    assert await relay.pending() == []
    await worker.finish()
    state = await relay.state()
    assert (state.cursor, state.delivered, state.behind, state.delivered_at) == (events[-1].cursor, 8, 0, NOW)


async def test_event_outside_the_filter_is_skipped(relay: RelayHarness) -> None:
    sink = ScriptedSink(where=lambda event: "shop" if event.subject == TWO else None)
    events = await relay.happen(1, 2, 1, 3)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    await worker.finish()
    assert [event.subject for event in sink.sent] == [TWO]
    state = await relay.state()
    assert (state.cursor, state.delivered) == (events[-1].cursor, 1)


async def test_unrecorded_delivery_repeats_with_same_id(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1, 2)
    await relay.deliver_all_new(await relay.worker(sink))  # this worker never records its progress
    relay.clock.advance(LEASE)
    heir = await relay.worker(sink, "heir")
    await relay.deliver_all_new(heir)
    assert [event.id for event in sink.received] == [f"{ONE}-2", f"{TWO}-2"] * 2
    await heir.finish()
    relay.clock.advance(LEASE)
    await relay.deliver_all_new(await relay.worker(sink, "third"))
    assert len(sink.received) == 4


# ---- one event that fails


async def test_failing_event_blocks_only_its_task(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(2, 1, 1, 2, 3)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert (sink.of(ONE), sink.of(TWO), sink.of(THREE)) == ([], [2, 3], [2])
    await relay.happen(1, 3)
    await relay.deliver_all_new(worker)
    assert (sink.of(ONE), sink.of(THREE)) == ([], [2, 3])
    assert [(each.attempts, each.error) for each in await relay.pending()] == [(1, "refused"), (0, ""), (0, "")]
    sink.answer = taken
    await relay.deliver_all_pending(worker)
    assert sink.of(ONE) == [], "it is not due yet"
    relay.clock.advance(SECOND)
    await relay.deliver_all_pending(worker)
    assert sink.of(ONE) == [2, 3, 4]
    assert await relay.pending() == []


async def test_retry_delay_doubles_up_to_the_maximum(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 2)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    waits = []
    for _ in range(14):
        (delivery,) = await relay.pending()
        assert delivery.next_at is not None
        waits.append((delivery.next_at - relay.clock()).total_seconds())
        relay.clock.now = delivery.next_at
        worker.hold(float("inf"))
        await relay.deliver_all_pending(worker)
    # Half of 1 s, 2 s, 4 s …, because the jitter is one half here.
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800]
    assert [event.id for event in sink.sent if event.subject == ONE] == [f"{ONE}-2"] * 15


@pytest.mark.parametrize(("asked", "given"), [(90 * SECOND, 90 * SECOND), (9 * HOUR, HOUR), (-SECOND, SECOND / 2)])
async def test_event_retry_after_is_applied_within_bounds(
    relay: RelayHarness, asked: timedelta, given: timedelta
) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="busy", retry_after=asked)))
    await relay.happen(2, 1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    (delivery,) = await relay.pending()
    assert delivery.next_at == NOW + given


async def patience(relay: RelayHarness, worker: SinkWorker, *, meanwhile: int | None) -> None:
    """Advance the clock by three days, while the task ``meanwhile`` has an event every hour."""
    end = relay.clock() + backoff.PATIENCE + HOUR
    while relay.clock() < end:
        worker.hold(float("inf"))
        relay.clock.advance(HOUR)
        if meanwhile is not None:
            await relay.happen(meanwhile)
        await relay.deliver_all_new(worker)
        await relay.deliver_all_pending(worker)


async def test_failing_event_is_dead_letter_after_three_days(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 1, 2)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    await patience(relay, worker, meanwhile=2)
    (dead,) = await relay.dead_letters()
    assert (dead.event_id, dead.next_at) == (f"{ONE}-2", None)
    assert dead.attempts >= backoff.ATTEMPTS
    assert sink.of(ONE) == [3]
    assert await relay.pending() == []


async def test_sink_down_makes_no_dead_letter(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused)
    await relay.happen(1, 1, 2)
    worker = await relay.worker(sink)
    await patience(relay, worker, meanwhile=None)
    assert len(sink.sent) > 50
    assert await relay.dead_letters() == []
    sink.answer = taken
    relay.clock.advance(HOUR)
    await relay.deliver_all_new(worker)
    await relay.deliver_all_pending(worker)
    assert (sink.of(ONE), sink.of(TWO)) == ([2, 3], [2])


async def test_hopeless_event_is_dead_letter_and_logged(relay: RelayHarness, caplog: pytest.LogCaptureFixture) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="too large", hopeless=True)))
    await relay.happen(1, 1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    assert [each.error for each in await relay.dead_letters()] == ["too large"]
    assert sink.of(ONE) == [3]
    assert [line for line in caplog.messages if "dead letters" in line] == [
        f"sink {sink.name}: 1 dead letters, see homing deliveries --dead-letter"
    ]


async def test_replayed_dead_letter_keeps_its_sequence(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="too large", hopeless=True)))
    await relay.happen(1, 1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    sink.answer = taken
    assert (
        await relay.store.deliveries.replay("shop", ReplayFilter(dead=True), lambda _: True, now=NOW, dry_run=False)
        == 1
    )
    await relay.deliver_all_pending(worker)
    assert [event.sequence for event in sink.received] == [3, 2]
    assert await relay.dead_letters() == []


# ---- a sink that is down


async def test_sink_down_keeps_few_rows_and_order(
    relay: RelayHarness,
) -> None:
    sink = ScriptedSink(answer=refused, width=100)
    numbers = [number % 40 for number in range(400)]
    events = await relay.happen(*numbers)
    worker = await relay.worker(sink)
    for _ in range(20):
        await relay.deliver_all_new(worker)
        await relay.deliver_all_pending(worker)
        relay.clock.advance(30 * SECOND)
        worker.hold(float("inf"))
    assert len(await relay.pending()) <= 25
    assert len(sink.sent) <= 25
    state = await relay.state()
    assert state.failures == len(sink.sent)
    assert state.retry_at is not None
    sink.answer = taken
    for _ in range(3):
        relay.clock.advance(90 * SECOND)
        await relay.deliver_all_new(worker)
        await worker.pending.hurry()
        await relay.deliver_all_pending(worker)
    assert await relay.pending() == []
    assert len(sink.received) == len(events)
    for number in range(40):
        assert sink.of(a_task(number).id) == list(range(2, 12))
    await worker.finish()
    assert (await relay.state()).failures == 0


async def test_sink_down_is_probed_less_and_less_often(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=refused, width=100)
    await relay.happen(*range(1, 51))
    worker = await relay.worker(sink)
    before = 0
    seen = []
    for second in range(300):
        await relay.deliver_all_new(worker)
        await relay.deliver_all_pending(worker)
        if len(sink.sent) > before:
            seen.append(second)
            before = len(sink.sent)
        relay.clock.advance(SECOND)
        worker.hold(float("inf"))
    assert set(sink.waves) == {1}
    assert 8 <= len(seen) <= 20


async def test_sink_retry_after_is_applied(relay: RelayHarness) -> None:
    busy = Outcome(delivered=False, error="busy", retry_after=300 * SECOND)
    sink = ScriptedSink(answer=lambda _: busy)
    await relay.happen(*range(1, 51))
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    attempts = len(sink.sent)
    relay.clock.advance(299 * SECOND)
    worker.hold(float("inf"))
    await relay.deliver_all_new(worker)
    await relay.deliver_all_pending(worker)
    assert len(sink.sent) == attempts
    relay.clock.advance(SECOND)
    await relay.deliver_all_new(worker)
    await relay.deliver_all_pending(worker)
    assert len(sink.sent) == attempts + 1


async def test_refused_event_does_not_delay_others(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1)
    worker = await relay.worker(sink)
    for number in range(2, 40):
        worker.hold(float("inf"))
        await relay.deliver_all_new(worker)
        await relay.deliver_all_pending(worker)
        relay.clock.advance(2 * SECOND)
        await relay.happen(number)
        await relay.deliver_all_new(worker)
        assert sink.of(a_task(number).id) == [2], "it is delivered at once"


async def test_refused_events_delay_others_by_seconds(relay: RelayHarness) -> None:
    bad = tuple(a_task(number).id for number in range(1, 6))
    sink = ScriptedSink(answer=poison(*bad))
    await relay.happen(1, 2, 3, 4, 5)
    worker = await relay.worker(sink)
    for number in range(6, 30):
        await relay.happen(number)
        for _ in range(100):
            worker.hold(float("inf"))
            await relay.deliver_all_new(worker)
            await worker.pending.hurry()
            await relay.deliver_all_pending(worker)
            if sink.of(a_task(number).id):
                break
            relay.clock.advance(SECOND)
        assert sink.of(a_task(number).id) == [2]
    # The first of them waits for a probe, and the failing events take turns with the probes.
    assert relay.clock() - NOW < 24 * 3 * SECOND


async def test_gone_sink_resumes_where_it_stopped(relay: RelayHarness) -> None:
    sink = ScriptedSink(answer=poison(ONE, outcome=Outcome(delivered=False, error="gone", gone=True)), width=1)
    await relay.happen(2, 1, 1, 3)
    worker = await relay.worker(sink)
    await worker.run(asyncio.Event())
    state = await relay.state()
    assert (state.on, state.last_error, [event.subject for event in sink.sent]) == (False, "gone", [TWO, ONE])
    sink.answer = taken
    await relay.store.sinks.switch("shop", on=True, now=relay.clock())
    again = await relay.worker(sink)
    await relay.deliver_all_new(again)
    await relay.deliver_all_pending(again)
    assert (sink.of(ONE), sink.of(TWO), sink.of(THREE)) == ([2, 3], [2], [2])
    assert len(sink.received) == 4


# ---- leases


async def test_worker_with_lost_lease_records_nothing(relay: RelayHarness) -> None:
    relay.timing = replace(relay.timing, page=1)
    sink = ScriptedSink(answer=poison(ONE))
    await relay.happen(1, 2, 3, 4)
    sleeper = await relay.worker(sink)
    relay.clock.advance(LEASE)
    heir = await relay.worker(ScriptedSink(), "heir")
    await relay.deliver_all_new(heir)
    await heir.finish()
    before = await relay.state()
    await relay.deliver_all_new(sleeper)
    await sleeper.finish()
    assert [event.subject for event in sink.sent] == [ONE]
    assert await relay.state() == before
    assert await relay.pending() == []


async def test_worker_with_expired_lease_sends_nothing(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    worker = await relay.worker(sink)
    worker.hold(asyncio.get_running_loop().time())
    await relay.deliver_all_new(worker)
    assert sink.sent == []


async def test_sink_resumed_from_now_skips_older_events(relay: RelayHarness) -> None:
    sink = ScriptedSink()
    await relay.happen(1)
    worker = await relay.worker(sink)
    await relay.deliver_all_new(worker)
    await relay.happen(2)
    await relay.store.sinks.switch("shop", on=True, now=NOW, from_now=True)
    await worker.finish()
    assert (await relay.state()).behind == 0
    await relay.store.sinks.register([a_sink(name="shop", address="x:")], now=NOW)
    again = await relay.worker(sink)
    await relay.deliver_all_new(again)
    assert [event.subject for event in sink.received] == [ONE]


# ---- what the operator sees of a failing sink


def said_of(caplog: pytest.LogCaptureFixture, name: str = "shop") -> list[str]:
    """Return the log lines of a sink, each without its reason."""
    lines = [record.getMessage() for record in caplog.records if record.name == "homing.relay"]
    return [line.partition(":")[0] for line in lines if line.startswith(f"sink {name} ")]


async def test_failing_sink_is_logged_once_until_it_works(
    relay: RelayHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(answer=refused)
    worker = await relay.worker(sink)
    await relay.happen(1)
    await relay.deliver_new(worker)
    for _ in range(8):
        relay.clock.advance(HOUR)
        await worker.pending.deliver()
    assert said_of(caplog) == ["sink shop fails and is retried"]

    sink.answer = taken
    relay.clock.advance(HOUR)
    await worker.pending.deliver()
    await relay.happen(1)
    await relay.deliver_new(worker)

    assert len(sink.received) == 2
    assert said_of(caplog) == ["sink shop fails and is retried", "sink shop works again"]


async def test_failing_sink_shows_its_next_attempt(relay: RelayHarness) -> None:
    worker = await relay.worker(ScriptedSink(answer=refused))
    await relay.happen(1)
    await relay.deliver_new(worker)
    await worker.finish()

    (delivery,) = await relay.pending()
    state = await relay.state()

    assert (state.retry_at, state.last_error) == (delivery.next_at, "refused")
    assert delivery.next_at is not None
    assert delivery.next_at > relay.clock()


async def test_unopenable_sink_shows_its_next_attempt(relay: RelayHarness, caplog: pytest.LogCaptureFixture) -> None:
    sink = ScriptedSink(broken=OSError())
    worker = await relay.worker(sink)
    stop = asyncio.Event()
    opening = asyncio.create_task(worker.open(stop))

    async def tried_twice() -> bool:
        return sink.opened == 2

    await until(tried_twice)
    state = await relay.state()
    sink.broken = None
    await opening

    assert state.retry_at is not None
    assert state.retry_at > relay.clock()
    assert said_of(caplog) == ["sink shop fails and is retried", "sink shop works again"]
