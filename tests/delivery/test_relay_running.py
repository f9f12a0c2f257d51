"""The running relay, over both databases: leases, replicas, stop, and sinks that are slow, down or broken."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

from homing.serve import relay_of
from homing.server.loops import looping
from tests.support.builders import a_sink, a_task, an_event, writing
from tests.support.conditions import until
from tests.support.homing_server import settings_of
from tests.support.postgres import Postgres
from tests.support.scripted_sink import NO, ScriptedSink, refused, taken
from tracker.app import create_tracker
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.timing import RELAY_TIMING
from tracker.errors import StoreUnavailable
from tracker.model.clock import utc_now
from tracker.model.event import PublishedEvent
from tracker.model.sinks import ProgressUpdate, ReplayFilter, SinkState
from tracker.model.task import Status
from tracker.service.tracker import Tracker
from tracker.storage.store import Store

NOBODY = "http://127.0.0.1:9"
BRISK = replace(
    RELAY_TIMING,
    lease=timedelta(seconds=1.5),
    renew=timedelta(seconds=0.3),
    acquire=timedelta(seconds=0.1),
    idle=timedelta(seconds=0.2),
    grace=timedelta(seconds=0.1),
    finish=timedelta(seconds=0.5),
    hurry=timedelta(),
)
STATUSES = ("submitted", "processing", "succeeded")


@dataclass(slots=True, kw_only=True)
class Place:
    """One process: a tracker, and a relay that delivers to its sinks."""

    tracker: Tracker
    sinks: Sequence[ScriptedSink]

    async def happen(self, tasks: Sequence[int], *, versions: int = 3) -> None:
        for version in range(2, 2 + versions):
            status = STATUSES[min(version - 2, 2)]
            works = []
            for number in tasks:
                task = a_task(number, status=Status(status), version=version)
                works.append(writing(task, events=(an_event(task, version, status),)))
            await self.tracker.store.apply(works)
        self.tracker.feed.signal_commit()

    async def state(self, name: str = "shop") -> SinkState:
        return next(state for state in await self.tracker.store.sinks.states() if state.name == name)


@asynccontextmanager
async def place(url: str, folder: Path, store: Store | None = None) -> AsyncIterator[Tracker]:
    settings = settings_of(folder, NOBODY, database_url=url)
    async with create_tracker(settings, store=store, clock=utc_now) as tracker:
        yield tracker


@asynccontextmanager
async def relaying(
    url: str, folder: Path, *sinks: ScriptedSink, store: Store | None = None, **timing: Any
) -> AsyncIterator[Place]:
    async with place(url, folder, store) as tracker:
        named = [(a_sink(name=sink.name, address="x:", beginning=True), sink) for sink in sinks]
        async with looping([relay_of(tracker, named, timing=replace(BRISK, **timing))]):
            yield Place(tracker=tracker, sinks=sinks)


async def got(sink: ScriptedSink, count: int) -> None:
    async def there() -> bool:
        return len({event.id for event in sink.received}) >= count

    await until(there, within=30)


def in_order(sink: ScriptedSink, tasks: Sequence[int], versions: int = 3) -> None:
    for number in tasks:
        assert sink.of(a_task(number).id) == list(range(2, 2 + versions))


def once(sink: ScriptedSink) -> None:
    ids = [event.id for event in sink.received]
    assert len(ids) == len(set(ids))


async def test_each_sink_gets_every_event_once(url: str, tmp_path: Path) -> None:
    shop, log = ScriptedSink(), ScriptedSink(name="log", width=500)
    async with relaying(url, tmp_path, shop, log) as here:
        await here.happen(range(1, 51))
        await got(shop, 150)
        await got(log, 150)
        await here.happen(range(51, 61))
        await got(shop, 180)
        await got(log, 180)
    for sink in (shop, log):
        in_order(sink, range(1, 61))
        once(sink)
        assert (sink.opened, sink.closed) == (1, 1)
    async with relaying(url, tmp_path, shop, log) as here:
        state = await here.state()
        assert (state.behind, state.waiting, state.delivered) == (0, 0, 180)
        await here.happen([61])
        await got(shop, 183)
    once(shop)


async def test_failing_sink_delays_no_other_sink(url: str, tmp_path: Path) -> None:
    slow = ScriptedSink(name="slow", width=1, held=lambda _: asyncio.Event())
    down = ScriptedSink(name="down", answer=refused)
    broken = ScriptedSink(name="broken", broken=OSError("made-up-secret"))
    well = ScriptedSink(name="well")
    async with relaying(url, tmp_path, slow, down, broken, well) as here:
        await here.happen(range(1, 101))
        await got(well, 300)

        async def recorded_calls() -> bool:
            return (await here.state("broken")).last_error == "it cannot be opened: OSError"

        await until(recorded_calls)
        broken.broken, down.answer = None, taken
        await got(down, 300)
        await got(broken, 300)
        in_order(down, range(1, 101))
        in_order(broken, range(1, 101))
        assert broken.opened > 1
    assert len(slow.sent) == 1


async def test_relay_stop_waits_for_events_in_flight(url: str, tmp_path: Path) -> None:
    gate = asyncio.Event()
    sink = ScriptedSink(held=lambda _: gate, width=4)
    async with relaying(url, tmp_path, sink, finish=timedelta(seconds=30)) as here:
        await here.happen(range(1, 21), versions=1)

        async def in_flight() -> bool:
            return sink.in_flight == 1

        await until(in_flight)
        asyncio.get_running_loop().call_later(0.2, gate.set)
    assert len(sink.received) == len(sink.sent) == 1
    async with relaying(url, tmp_path, sink):
        await got(sink, 20)
    once(sink)


async def test_relay_stop_gives_up_on_a_hung_send(url: str, tmp_path: Path) -> None:
    never = asyncio.Event()
    sink = ScriptedSink(held=lambda _: never)
    async with relaying(url, tmp_path, sink) as here:
        await here.happen([1, 2])

        async def in_flight() -> bool:
            return sink.in_flight > 0

        await until(in_flight)
    assert (sink.in_flight, sink.closed, sink.received) == (0, 1, [])
    sink.held = lambda _: None
    async with relaying(url, tmp_path, sink):
        await got(sink, 6)
    in_order(sink, [1, 2])
    assert sink.sent[0].id in {event.id for event in sink.received}


async def test_relay_sink_can_be_switched_off_and_on(url: str, tmp_path: Path) -> None:
    sink = ScriptedSink()
    async with relaying(url, tmp_path, sink) as here:
        await here.happen([1])
        await got(sink, 3)
        await here.tracker.store.sinks.switch("shop", on=False, now=utc_now())

        async def closed() -> bool:
            return sink.closed == 1

        await until(closed)
        await here.happen([2])
        assert len(sink.received) == 3
        await here.tracker.store.sinks.switch("shop", on=True, now=utc_now())
        await got(sink, 6)
        in_order(sink, [1, 2])


async def test_replay_is_delivered_while_relay_runs(url: str, tmp_path: Path) -> None:
    sink = ScriptedSink()
    async with relaying(url, tmp_path, sink) as here:
        await here.happen([1, 2])
        await got(sink, 6)

        async def known() -> bool:
            return (await here.state()).behind == 0

        await until(known)
        deliveries, again = here.tracker.store.deliveries, ReplayFilter(task_id=a_task(1).id)
        assert await deliveries.replay("shop", again, lambda _: True, now=utc_now(), dry_run=False) == 3

        async def repeated() -> bool:
            return len(sink.received) == 9

        await until(repeated)
        assert [event.sequence for event in sink.received[6:]] == [2, 3, 4]


async def test_failing_event_is_retried_before_later_events(url: str, tmp_path: Path) -> None:
    failing = {f"{a_task(number).id}-2" for number in range(1, 6)}

    def answer(event: PublishedEvent) -> Outcome:
        if event.id in failing:
            failing.discard(event.id)
            return NO
        return DELIVERED

    sink = ScriptedSink(answer=answer)
    async with relaying(url, tmp_path, sink) as here:
        await here.happen(range(1, 31))
        await got(sink, 90)
        in_order(sink, range(1, 31))
        once(sink)


class AwayStore(Store):
    """A store that cannot record progress while ``away`` is true."""

    away = False

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        real = self.progress.record

        async def settle(name: str, settled: ProgressUpdate, **more: Any) -> bool:
            if self.away:
                raise StoreUnavailable("away")
            return await real(name, settled, **more)

        object.__setattr__(self.progress, "record", settle)


async def test_relay_without_database_loses_nothing(url: str, tmp_path: Path) -> None:
    sink = ScriptedSink(answer=lambda event: DELIVERED if event.sequence != 2 or sink.closed else NO)
    store = AwayStore(url)
    async with relaying(url, tmp_path, sink, store=store) as here:
        store.away = True
        await here.happen([1])

        async def tried() -> bool:
            return bool(sink.sent)

        await until(tried)
        sink.answer = taken
        store.away = False
        await got(sink, 3)
        in_order(sink, [1])


class LateStore(Store):
    """A store that records the first failure only after the relay looked for due deliveries and found none."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        settle, next_due = self.progress.record, self.progress.next_due
        self.writing = asyncio.Event()
        self.looked = asyncio.Event()

        async def late(name: str, settled: ProgressUpdate, **more: Any) -> bool:
            if settled.failed:
                self.writing.set()
                await self.looked.wait()
            return await settle(name, settled, **more)

        async def look(name: str) -> datetime | None:
            writing = self.writing.is_set()
            found = await next_due(name)
            if writing:
                asyncio.get_running_loop().call_soon(self.looked.set)
            return found

        object.__setattr__(self.progress, "record", late)
        object.__setattr__(self.progress, "next_due", look)


async def test_failure_being_recorded_blocks_its_task(url: str, tmp_path: Path) -> None:
    refusals = [NO]
    sink = ScriptedSink(answer=lambda event: refusals.pop() if refusals and event.sequence == 3 else DELIVERED)
    async with relaying(url, tmp_path, sink, store=LateStore(url), page=1) as here:
        await here.happen([1])
        await got(sink, 3)
    assert [event.sequence for event in sink.received] == [2, 3, 4]


# ---- several processes


async def test_replica_takes_over_when_the_other_stops(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.fresh()
    first, second = ScriptedSink(), ScriptedSink()
    async with AsyncExitStack() as there:
        here = await there.enter_async_context(relaying(url, tmp_path, first))
        await here.happen(range(1, 11))
        await got(first, 30)
        async with relaying(url, tmp_path, second) as other:
            await other.happen(range(11, 21))
            await got(first, 60)
            assert second.sent == []
            await there.aclose()
            await other.happen(range(21, 31))
            await got(second, 30)
    in_order(first, range(1, 21))
    in_order(second, range(21, 31))
    once(first)
    once(second)


async def test_replica_after_lease_end_records_nothing(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.fresh()
    gate = asyncio.Event()
    sleeper, heir = ScriptedSink(held=lambda _: gate), ScriptedSink()
    # It never renews its lease, like a stopped process.
    async with relaying(url, tmp_path, sleeper, renew=timedelta(hours=1), finish=timedelta(seconds=30)) as here:
        await here.happen(range(1, 6))

        async def in_flight() -> bool:
            return sleeper.in_flight > 0

        await until(in_flight)
        async with relaying(url, tmp_path, heir) as other:
            await got(heir, 15)
            await until(lambda: _known(other))
            before = await other.state()
            gate.set()

            async def over() -> bool:
                return sleeper.closed > 0

            await until(over)
            after = await other.state()
            assert (after.cursor, after.delivered, after.waiting) == (before.cursor, before.delivered, 0)
    in_order(heir, range(1, 6))
    assert len(sleeper.received) == 1


async def _known(here: Place) -> bool:
    return (await here.state()).behind == 0


async def test_replicas_starting_together_share_sinks(postgres: Postgres, tmp_path: Path) -> None:
    """Each waits for a random part of an interval before it takes a sink. Here half of the waits are short."""
    url = postgres.fresh()
    names = [f"sink{number}" for number in range(12)]
    timing = replace(BRISK, acquire=timedelta(minutes=2))
    async with place(url, tmp_path) as here, place(url, tmp_path) as other:
        named = [(a_sink(name=name, address="x:"), ScriptedSink(name=name)) for name in names]
        short_then_long, long_then_short = cycle([0.0, 1.0]), cycle([1.0, 0.0])
        relays = [
            relay_of(here, named, timing=timing, chance=lambda: next(short_then_long)),
            relay_of(other, named, timing=timing, chance=lambda: next(long_then_short)),
        ]
        async with looping(relays):

            async def all_held() -> bool:
                states = await here.store.sinks.states()
                return bool(states) and all(state.owner is not None for state in states)

            await until(all_held)
            owners = [state.owner for state in await here.store.sinks.states()]
    assert (owners.count(here.owner), owners.count(other.owner)) == (6, 6)
