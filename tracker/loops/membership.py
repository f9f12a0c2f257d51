"""Membership of processes that serve one database: heartbeats, a common clock and shares of the work.

Each process writes a heartbeat every few seconds. A process without one for too long counts as dead. Another process
then takes over its polls at once. Its submissions in flight keep their lease, because the provider may have them. A
process that was only paused writes its heartbeat again and continues. If two processes polled the same task, the answer
is recorded once. On SQLite there is one process and no heartbeat.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from tracker.errors import HomingError
from tracker.model.clock import SteeredClock
from tracker.model.servers import Heartbeat, Part, Server
from tracker.service.notes import Notes
from tracker.service.repeat import Failures, pause
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.membership")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatTiming:
    """The interval of heartbeats, and the time without a heartbeat after which a process counts as dead."""

    heartbeat: timedelta = timedelta(seconds=2)
    silence: timedelta = timedelta(seconds=10)


HEARTBEAT_TIMING: Final = HeartbeatTiming()


def this_process(owner: str, parts: Collection[Part]) -> Server:
    """Return this process as other processes see it."""
    named = tuple(part.value for part in Part if part in parts)
    return Server(owner=owner, host=socket.gethostname(), pid=os.getpid(), parts=named)


class Membership:
    """``async with`` joins, writes heartbeats, and leaves. Within the block, the tracker is ready for loops.

    ``store``, ``notes`` and ``clock`` are the tracker's. ``margin`` is added to the leases of a dead process.
    """

    def __init__(
        self,
        store: Store,
        notes: Notes,
        clock: SteeredClock,
        *,
        me: Server,
        margin: timedelta,
        heartbeat_timing: HeartbeatTiming = HEARTBEAT_TIMING,
    ) -> None:
        self._store = store
        self._notes = notes
        self._clock = clock
        self._me = me
        self._margin = margin
        self._heartbeat_timing = heartbeat_timing
        self._share = 1.0
        self._failures = Failures(log, "the heartbeat cannot be written", "the heartbeat works again")
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def share(self) -> float:
        """Return this process's share of the request budget. It is 1.0 for a single process."""
        return self._share

    async def __aenter__(self) -> Self:
        if not self._store.shared:
            await self._store.continue_numbers()
            # Continue at once the polls of an earlier process.
            await self._store.due_tasks.release(owner=self._me.owner, margin=self._margin)
            return self
        heartbeat = await self._write()
        if {server.owner for server in heartbeat.alive} == {self._me.owner}:
            # The database may have been restored while no process was watching.
            await self._store.continue_numbers()
        self._follow(heartbeat)
        self._running = asyncio.create_task(self._run(), name="homing membership")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, so that other processes can take over at once. If that fails, they wait for missing heartbeats."""
        if self._running is None:
            return
        self._stop.set()
        await self._running
        with suppress(HomingError):
            await self._store.servers.leave(self._me.owner, margin=self._margin)

    async def _run(self) -> None:
        """Write heartbeats. A failure is logged once, and the next heartbeat tries again."""
        while not await pause(self._stop, self._heartbeat_timing.heartbeat):
            with self._failures.survived():
                self._follow(await self._write())

    async def _write(self) -> Heartbeat:
        # Other processes rely on a heartbeat: all clients that left before it are recorded.
        await self._notes.flush()
        return await self._store.servers.beat(
            self._me,
            silence=self._heartbeat_timing.silence,
            margin=self._margin,
            own=self._clock.own,
        )

    def _follow(self, heartbeat: Heartbeat) -> None:
        self._clock.steer(heartbeat.reading)
        looping = sum(Part.LOOPS in server.parts for server in heartbeat.alive)
        self._share = 1 / max(looping, 1)
        for taken in heartbeat.taken:
            log.warning(
                "process %d on %s (%s) has sent no heartbeat for %.0f s: %d of its tasks are taken over",
                taken.server.pid,
                taken.server.host,
                ", ".join(taken.server.parts),
                taken.silent_for.total_seconds(),
                taken.tasks,
            )
