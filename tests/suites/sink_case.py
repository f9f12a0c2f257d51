"""The sink-specific part of the shared suite: a real endpoint and its failures.

The suite does not depend on a protocol. Each case defines how events arrive, and what "down" and "slow" mean.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from homing.serve import relay_of
from tests.support.builders import NOW, a_sink, a_task, writing
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.published_events import readable
from tracker.app import create_tracker
from tracker.delivery.sinks.base import Sink
from tracker.delivery.timing import RELAY_TIMING
from tracker.model.event import PublishedEvent
from tracker.model.task import Event, Status
from tracker.service.tracker import Tracker
from tracker.settings import Settings

LIMIT = 30.0
# Deliveries in flight when a relay ended are sent again when its lease has expired.
PACE_HERE = replace(RELAY_TIMING, send=timedelta(seconds=5), finish=timedelta(seconds=1))
EVENT_NAMES = ("submitted", "processing", "succeeded", "updated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One received event: its ID, its task, and its sequence number."""

    id: str
    subject: str
    sequence: int


class SinkCase(ABC):
    """One kind of sink, and the receiver behind it, which keeps its address when it is started again.

    ``alarms``: whether it takes events that are of no task. ``task`` are fields that its tasks must have.
    """

    alarms = True

    @property
    def task(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def sink(self) -> Sink:
        """Make a new sink that leads to the receiver, named ``under test``."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def kill(self) -> None:
        """Kill the endpoint without notice. Received events are kept."""

    @abstractmethod
    async def got(self) -> list[Got]:
        """Return the accepted events in the order of arrival, including repeats."""

    @abstractmethod
    def refuse(self, refuses: Callable[[Got], bool]) -> None:
        """Let the receiver take no event of which this is true, as long as it is."""

    @abstractmethod
    def hold(self) -> None:
        """Let the receiver be so slow that it answers nothing, until ``let_go``."""

    @abstractmethod
    def let_go(self) -> None: ...

    @abstractmethod
    def is_holding(self) -> bool:
        """Return whether something is on its way that a slow receiver has not answered."""

    def id_of(self, event: PublishedEvent) -> str:
        return event.id


@dataclass(slots=True, kw_only=True)
class SinkHarness:
    """A tracker whose tasks change, and the relay that delivers to the sink of the case."""

    tracker: Tracker
    case: SinkCase
    happened: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    versions: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: 1))

    async def happen(self, *tasks: int) -> list[PublishedEvent]:
        """Let one event after the other happen, each to a task by its number."""
        events = self.tracker.store.events
        before = await events.latest()
        for number in tasks:
            version = self.versions[number] = self.versions[number] + 1
            event_name = EVENT_NAMES[min(version - 2, len(EVENT_NAMES) - 1)]
            status = Status.SUCCEEDED if event_name == "updated" else Status(event_name)
            task = a_task(number, **{**self.case.task, "status": status, "version": version})
            event = Event(type=f"homing.task.{event_name}", task=task, at=NOW)
            await self.tracker.store.apply([writing(task, events=(event,))])
        self.tracker.feed.signal_commit()
        published = readable(await events.read(after=before, limit=10_000))
        for one in published:
            self.happened[one.subject].append(self.case.id_of(one))
        return published

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Deliver to the sink while the block runs."""
        stop = asyncio.Event()
        new = a_sink(name="under test", address="the receiver of this test", beginning=True)
        # A small random factor makes retries fast.
        relay = relay_of(self.tracker, [(new, self.case.sink())], timing=PACE_HERE, chance=lambda: 0.03)
        running = asyncio.create_task(relay.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(running, LIMIT)

    async def arrived(self) -> dict[str, list[str]]:
        """Return the IDs that arrived for each task, in the order of their first arrival."""
        found: dict[str, list[str]] = defaultdict(list)
        for got in await self.case.got():
            if got.id not in found[got.subject]:
                found[got.subject].append(got.id)
        return dict(found)

    async def all_arrived(self) -> None:
        """Wait until everything that happened arrived; each task's events in their order."""

        async def complete() -> bool:
            arrived = await self.arrived()
            return sum(map(len, arrived.values())) >= sum(map(len, self.happened.values()))

        await until(complete)
        assert await self.arrived() == dict(self.happened)


@asynccontextmanager
async def sink_harness(folder: Path, case: SinkCase) -> AsyncIterator[SinkHarness]:
    settings = Settings(database_url=sqlite_url(folder))
    async with create_tracker(settings) as tracker:
        yield SinkHarness(tracker=tracker, case=case)
