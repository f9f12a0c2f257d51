"""The harness of the relay tests: a real store and feed, a fake clock, and sink workers that run step by step."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from tests.support.builders import a_sink, a_task, an_event, writing
from tests.support.fakes import Clock
from tests.support.published_events import readable
from tests.support.scripted_sink import ScriptedSink
from tracker.delivery.timing import RELAY_TIMING, RelayTiming
from tracker.delivery.worker import SinkWorker
from tracker.model.event import PublishedEvent
from tracker.model.sinks import Delivery, SinkState
from tracker.model.task import Status
from tracker.rules.schedule import Policy
from tracker.service.feed import Feed
from tracker.storage.store import Store

SOON = timedelta(seconds=20)
ONE, TWO, THREE = (a_task(number).id for number in (1, 2, 3))
STATUSES = ("submitted", "processing", "succeeded")


@dataclass(slots=True, kw_only=True)
class RelayHarness:
    """A store, a feed and sink workers. ``chance`` returns the random number of every jitter."""

    store: Store
    feed: Feed
    clock: Clock
    timing: RelayTiming = RELAY_TIMING
    chance: Callable[[], float] = lambda: 0.5
    versions: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: 1))

    async def happen(self, *tasks: int) -> list[PublishedEvent]:
        """Publish one event for each task number, in order, and return the events."""
        before = await self.store.events.latest()
        for number in tasks:
            version = self.versions[number] = self.versions[number] + 1
            status = STATUSES[min(version - 2, 2)]
            task = a_task(number, status=Status(status), version=version)
            await self.store.apply([writing(task, events=(an_event(task, version, status),))])
        self.feed.signal_commit()
        return readable(await self.store.events.read(after=before, limit=10_000))

    async def worker(self, sink: ScriptedSink, owner: str = "me") -> SinkWorker:
        """Acquire the lease of the sink, and return its worker."""
        address = f"https://{sink.name}.example"
        new = a_sink(name=sink.name, address=address, beginning=True)
        await self.store.sinks.register([new], now=self.clock())
        state = await self.store.sinks.acquire_lease(sink.name, owner=owner, now=self.clock(), lease=self.timing.lease)
        assert state is not None
        return SinkWorker(
            self.store.progress,
            self.feed,
            sink,
            state,
            owner=owner,
            clock=self.clock,
            chance=self.chance,
            timing=self.timing,
        )

    async def deliver_new(self, worker: SinkWorker) -> int:
        """Deliver one page of new events, if there are any."""
        if await self.store.events.latest() > worker.cursor:
            assert await self.feed.beyond(worker.cursor, within=SOON)
        return await worker.new_events.deliver()

    async def deliver_all_new(self, worker: SinkWorker) -> None:
        """Deliver new events until the cursor stops."""
        while True:
            before = worker.cursor
            await self.deliver_new(worker)
            if worker.cursor == before:
                return

    async def deliver_all_pending(self, worker: SinkWorker) -> None:
        """Retry pending deliveries until none is due."""
        while await worker.pending.deliver():
            pass

    async def state(self, name: str = "shop") -> SinkState:
        return next(state for state in await self.store.sinks.states() if state.name == name)

    async def pending(self, name: str = "shop") -> Sequence[Delivery]:
        return await self.store.deliveries.page(sink=name, dead=False, limit=10_000)

    async def dead_letters(self, name: str = "shop") -> Sequence[Delivery]:
        return await self.store.deliveries.page(sink=name, dead=True, limit=10_000)


@asynccontextmanager
async def relay_harness(url: str, timing: RelayTiming = RELAY_TIMING) -> AsyncIterator[RelayHarness]:
    store = Store(url)
    await store.open()
    feed = Feed(store.events, scan_interval=Policy().feed_scan_interval)
    await feed.open()
    try:
        yield RelayHarness(store=store, feed=feed, clock=Clock(), timing=timing)
    finally:
        await feed.close()
        await store.close()
