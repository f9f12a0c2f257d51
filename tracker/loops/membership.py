"""Being one of several processes that serve one database: seen alive, on one clock, with a fair share of the work.

Each writes a row every few seconds. Who has been silent for too long is dead: any of the living takes over at once what
it was asking about; its submits in flight keep their lease, since the provider may have them. A process that was only
paused writes its row again and goes on; what was asked twice meanwhile is recorded once. On SQLite there is one
process, and nothing is written.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from tracker.errors import HomingError
from tracker.model.clock import SteeredClock
from tracker.model.servers import Heartbeat, Server
from tracker.service.repeat import pause
from tracker.service.tracker import Tracker

log: Final = logging.getLogger("homing.membership")


class Part(StrEnum):
    """What a process may run of the house."""

    RECEIVER = "receiver"
    API = "api"
    LOOPS = "loops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often a process says that it is alive, and after how long a silence it counts as dead."""

    beat: timedelta = timedelta(seconds=2)
    silence: timedelta = timedelta(seconds=10)


RHYTHM: Final = Rhythm()


class Membership:
    """``async with`` joins, keeps the membership alive, and leaves; inside it the tracker is ready for loops.

    ``clock`` is the tracker's.
    """

    def __init__(
        self, tracker: Tracker, clock: SteeredClock, *, parts: Collection[Part], rhythm: Rhythm = RHYTHM
    ) -> None:
        self._tracker = tracker
        self._clock = clock
        self._rhythm = rhythm
        told = tuple(part.value for part in Part if part in parts)
        self._me = Server(owner=tracker.owner, host=socket.gethostname(), pid=os.getpid(), parts=told)
        self._share = 1.0
        self._trouble = ""
        self._stop = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    def share(self) -> float:
        """Give the part of the house's requests that is this process's to send: 1.0 where it is alone."""
        return self._share

    async def __aenter__(self) -> Self:
        if not self._tracker.store.shared:
            await self._tracker.store.continue_numbers()
            await self._tracker.take_over()
            return self
        heartbeat = await self._beat()
        if {server.owner for server in heartbeat.alive} == {self._me.owner}:
            # Nobody can tell whether the database was restored while no process was watching.
            await self._tracker.store.continue_numbers()
        self._hear(heartbeat)
        self._beating = asyncio.create_task(self._run(), name="homing membership")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, so that nobody has to wait for our silence; where that fails they will."""
        if self._beating is None:
            return
        self._stop.set()
        await self._beating
        with suppress(HomingError):
            await self._tracker.store.leave(self._me.owner, margin=self._tracker.policy.lease_margin)

    async def _run(self) -> None:
        """Say so again and again; a failure is logged once, and the next beat tries anew."""
        while not await pause(self._stop, self._rhythm.beat):
            said = ""
            try:
                self._hear(await self._beat())
            except HomingError as error:
                said = error.detail
            except Exception as error:  # noqa: BLE001 - the loop survives any single failure
                said = type(error).__name__
            if said != self._trouble:
                log.warning("the heartbeat %s", f"cannot be written: {said}" if said else "works again")
                self._trouble = said

    async def _beat(self) -> Heartbeat:
        # Another process takes a beat to mean that rows tell which clients had left before it.
        await self._tracker.submission.notes.flush()
        return await self._tracker.store.beat(
            self._me,
            silence=self._rhythm.silence,
            margin=self._tracker.policy.lease_margin,
            own=self._clock.own,
        )

    def _hear(self, heartbeat: Heartbeat) -> None:
        self._clock.steer(heartbeat.reading)
        looping = sum(Part.LOOPS in server.parts for server in heartbeat.alive)
        self._share = 1 / max(looping, 1)
        for taken in heartbeat.taken:
            log.warning(
                "process %d on %s (%s) has been silent for %.0f s: %d of its tasks are taken over",
                taken.server.pid,
                taken.server.host,
                ", ".join(taken.server.parts),
                taken.silent_for.total_seconds(),
                taken.tasks,
            )
