"""The change feed: committed events, in the order of commits, for all waiters of a process.

One reader per process reads the events table, so a thousand waiters cost no additional queries. It reads after a commit
of this process, after a notice of another process, and otherwise every second. A lost signal or notice therefore costs
at most a second. Without waiters, it reads nothing.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final, Protocol

from tracker.model.event import Found
from tracker.service.repeat import Failures

log: Final = logging.getLogger("homing.feed")

# The least time between two reads. More frequent reads would find too few events.
PACE: Final = timedelta(milliseconds=10)
# If a read finds more events than this, fewer and larger reads leave more time to the writers.
MUCH: Final = 40
SLOWER: Final = timedelta(milliseconds=40)
# The number of events in memory for readers that lag a little. Other readers query the database.
KEPT: Final = 2_000
PAGE: Final = 500


class Events(Protocol):
    """The source of the events, which ``tracker.storage`` implements."""

    async def read(self, *, after: int, limit: int) -> Sequence[Found]: ...

    async def latest(self) -> int: ...

    async def horizon(self) -> int: ...

    async def highest_number(self) -> int: ...


class Notices(Protocol):
    """Notices between processes that share a database. Each says that something was committed."""

    async def listen(self, noticed: Callable[[], None]) -> None:
        """Call ``noticed`` for each notice of another process, until canceled. Raises an error if it cannot listen."""

    async def announce(self) -> None: ...

    async def close(self) -> None: ...


class Feed:
    """The events of one database. ``open`` starts the reader. ``close`` stops it and ends every wait.

    A reader keeps a cursor. It calls ``read`` for the events after the cursor, then ``beyond`` to wait for more.
    """

    def __init__(self, events: Events, *, notices: Notices | None = None, scan_interval: timedelta) -> None:
        self._events = events
        self._notices = notices
        self.scan_interval = scan_interval
        self._latest = 0
        # Every event after ``_floor`` up to ``_latest``.
        self._kept: list[Found] = []
        self._floor = 0
        self._arrived = asyncio.Event()
        self._read_due = asyncio.Event()
        self._unannounced = asyncio.Event()
        self._wanted = asyncio.Event()
        self._waiting = 0
        self._left_at = float("-inf")
        self._of_task: dict[str, set[asyncio.Event]] = {}
        self._running: list[asyncio.Task[None]] = []
        self._reading = Failures(log, "events cannot be read", "events are read again")
        self._listening = Failures(
            log, "notices of other processes cannot be received", "notices of other processes are received again"
        )
        self._announcing = Failures(log, "other processes cannot be notified", "other processes are notified again")
        self._dismissed = False
        # The number of restarts, and whether the reader must still find its new position.
        self._restarts = 0
        self._lost = False

    async def open(self) -> None:
        self._dismissed = False
        self._kept = []
        self._floor = self._latest = await self._events.latest()
        loops = [self._follow()]
        if self._notices is not None:
            loops += [self._listen(self._notices), self._announce(self._notices)]
        self._running = [asyncio.create_task(loop, name="homing feed") for loop in loops]

    async def close(self) -> None:
        self.dismiss()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        if self._notices is not None:
            await self._notices.close()

    def dismiss(self) -> None:
        """Release all waiters and refuse new ones, because the server is about to stop."""
        self._dismissed = True
        self._wake_all()

    @property
    def dismissed(self) -> bool:
        return self._dismissed

    @property
    def waiting(self) -> int:
        """The number of current waiters."""
        return self._waiting

    @property
    def latest(self) -> int:
        """The newest cursor that this process knows. ``now`` queries the database."""
        return self._latest

    async def now(self) -> int:
        """Return the cursor of the last committed event."""
        return await self._events.latest()

    async def horizon(self) -> int:
        """Return the cursor before which events have been deleted. A reader with an earlier cursor missed events."""
        return await self._events.horizon()

    async def highest_number(self) -> int:
        """Return the greatest cursor that may have been assigned, even if no event was committed there."""
        return await self._events.highest_number()

    def start_over(self) -> None:
        """Forget the events read so far, because the database was restored. All waiting readers read again."""
        self._restarts += 1
        self._lost = True
        self._kept = []
        # Serve every request from the database until its newest cursor is known.
        self._floor = self._latest
        self._read_due.set()
        self._wake_all()
        self._arrived = asyncio.Event()

    async def reaches(self, after: int) -> bool:
        """Return whether all events after a cursor are still readable. Call it after reading them."""
        return after >= self._floor or after >= await self._events.horizon()

    def signal_commit(self) -> None:
        """Signal that this process has committed an event."""
        self._read_due.set()
        self._unannounced.set()

    async def read(self, after: int, *, limit: int = PAGE) -> Sequence[Found]:
        """Return the next events after a cursor. The list is empty if there are none yet."""
        if after < self._floor:
            return await self._events.read(after=after, limit=limit)
        start = bisect_right(self._kept, after, key=lambda event: event.cursor)
        return self._kept[start : start + limit]

    async def beyond(self, after: int, *, within: timedelta) -> bool:
        """Wait until there are events after a cursor. Return False if there are none ``within`` that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()), self._wanting():
                while (self._latest <= after or self._lost) and not self._dismissed:
                    await self._arrived.wait()
        return self._latest > after and not self._lost

    @asynccontextmanager
    async def watching(self, task_id: str) -> AsyncIterator[asyncio.Event]:
        """Yield an Event that is set when the task may have changed. Read the task only after entering.

        After ``dismiss``, nothing sets it.
        """
        changed = asyncio.Event()
        self._of_task.setdefault(task_id, set()).add(changed)
        try:
            async with self._wanting():
                yield changed
        finally:
            watching = self._of_task[task_id]
            watching.discard(changed)
            if not watching:
                del self._of_task[task_id]

    @asynccontextmanager
    async def _wanting(self) -> AsyncIterator[None]:
        self._waiting += 1
        if self._waiting == 1:
            # Events are not read while there is no waiter. The first waiter must get them at once.
            self._read_due.set()
            self._wanted.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()
                self._left_at = asyncio.get_running_loop().time()

    async def _follow(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            if not self._wanted.is_set():
                await self._wanted.wait()
                # A client that waits repeatedly is away only for moments.
                if now() - self._left_at > self.scan_interval.total_seconds():
                    with self._reading.survived():
                        await self._catch_up()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.scan_interval.total_seconds()):
                    await self._read_due.wait()
            self._read_due.clear()
            before = len(self._kept)
            with self._reading.survived():
                await self._look()
            much = len(self._kept) - before > MUCH
            await asyncio.sleep((SLOWER if much else PACE).total_seconds())

    async def _catch_up(self) -> None:
        """Skip the events that arrived without a waiter, if they are many or incomplete.

        A reader that wants them queries the database. There it also learns whether events are gone.
        """
        newest = await self._events.latest()
        if newest - self._latest > KEPT or await self._events.horizon() > self._latest:
            self._kept = []
            self._floor = self._latest = newest
            self._wake_all()
            self._arrived = asyncio.Event()

    async def _look(self) -> None:
        restarts = self._restarts
        if self._lost:
            newest = await self._events.latest()
            if restarts == self._restarts:
                self._floor = self._latest = newest
                self._lost = False
                self._wake_all()
                self._arrived = asyncio.Event()
                self._read_due.set()
            return
        found = await self._events.read(after=self._latest, limit=PAGE)
        if not found or restarts != self._restarts:
            return
        self._kept.extend(found)
        self._latest = found[-1].cursor
        if len(found) == PAGE:
            self._read_due.set()
        if len(self._kept) > 2 * KEPT:
            self._floor = self._kept[-KEPT - 1].cursor
            del self._kept[:-KEPT]
        for event in found:
            if event.task_id is not None:
                for changed in self._of_task.get(event.task_id, ()):
                    changed.set()
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def _listen(self, notices: Notices) -> None:
        while True:
            with self._listening.survived():
                await notices.listen(self._noticed)
            await asyncio.sleep(self.scan_interval.total_seconds())

    def _noticed(self) -> None:
        # Listening ends only with a failure, so the first notice shows that it works.
        self._listening.note("")
        self._read_due.set()

    async def _announce(self, notices: Notices) -> None:
        while True:
            await self._unannounced.wait()
            self._unannounced.clear()
            with self._announcing.survived():
                await notices.announce()
            await asyncio.sleep(PACE.total_seconds())

    def _wake_all(self) -> None:
        for watching in self._of_task.values():
            for changed in watching:
                changed.set()
        self._arrived.set()
