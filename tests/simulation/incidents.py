"""Incidents: what happens to the machine under a running Homing."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from tests.simulation.deployment import Deployment
from tests.simulation.faulty_sqlite import Disk
from tests.simulation.sinks import SINKS
from tests.simulation.world import World

# How many steps of the event loop after its moment a kill may fall on.
KILL_STEPS: Final = 400


class Incidents:
    """One incident is one trouble at one moment; the first of each history is a kill."""

    def __init__(self, world: World, deployment: Deployment, disk: Disk) -> None:
        self.world = world
        self.deployment = deployment
        self.disk = disk
        self._kinds: dict[str, Callable[[str], Awaitable[None]]] = {
            "kill": self._kill,
            "restart": self._restart,
            "clock set": self._set_clock,
            "database locked": self._lock,
            "disk full": self._fill_disk,
            "disk fails": self._break_disk,
            "file moved away": self._move_file,
            "provider outage": self._outage,
            "credential refused": self._refuse_credential,
            "sink down": self._sink_down,
        }

    async def run(self, number: int) -> None:
        world, name = self.world, f"incident {number}"
        await asyncio.sleep(world.between(name, 2.0, 85.0))
        kind = "kill" if number == 0 else world.choice(name, tuple(self._kinds))
        world.note_fault(kind, name)
        await self._kinds[kind](name)

    async def _kill(self, name: str) -> None:
        """Kill the process at a step of the event loop, whatever that step is."""
        loop = self.world.loop
        at = loop.steps + int(self.world.between(name, 1, KILL_STEPS))

        def before_step(step: int) -> None:
            if step >= at:
                loop.before_step = None
                self.deployment.kill()

        loop.before_step = before_step
        while loop.before_step is before_step:  # noqa: ASYNC110 - time is virtual
            await asyncio.sleep(0.5)

    async def _restart(self, name: str) -> None:
        del name
        await self.deployment.restart()

    async def _set_clock(self, name: str) -> None:
        # Homing recognizes a retry that a wrong clock planned if it is more than three hours away (a documented limit).
        hours = self.world.between(name, 3.5, 6.0) * self.world.choice(name, (-1, 1))
        self.world.clock_offset += timedelta(hours=hours)
        await asyncio.sleep(self.world.between(name, 2.0, 40.0))
        if self.world.chance(name) < 0.7:
            self.world.clock_offset = timedelta()

    async def _lock(self, name: str) -> None:
        """Hold the database as another program does."""
        other = sqlite3.connect(self.deployment.database, timeout=0, isolation_level=None)
        try:
            with suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(self.world.between(name, 0.5, 9.0))
                other.execute("ROLLBACK")
        finally:
            other.close()

    async def _fill_disk(self, name: str) -> None:
        self.disk.full = True
        await asyncio.sleep(self.world.between(name, 0.5, 8.0))
        self.disk.full = False

    async def _break_disk(self, name: str) -> None:
        """Let one of the next writes fail; half of the failing commits were committed all the same."""
        self.disk.fail_after = int(self.world.between(name, 0, 12))
        self.disk.after_commit = self.world.chance(name) < 0.5
        await asyncio.sleep(5.0)
        self.disk.fail_after = None

    async def _move_file(self, name: str) -> None:
        """Move the file and its companions away, and back a little later."""
        file = self.deployment.database
        moved = [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm")]
        moved = [each for each in moved if each.exists()]
        for each in moved:
            each.rename(each.with_name(f"{each.name}.away"))
        await asyncio.sleep(self.world.between(name, 0.2, 4.0))
        for each in moved:
            each.with_name(f"{each.name}.away").rename(each)

    async def _outage(self, name: str) -> None:
        self.deployment.provider.outage(self.world.between(name, 2.0, 40.0))

    async def _refuse_credential(self, name: str) -> None:
        self.deployment.provider.refuse_credential(self.world.between(name, 2.0, 40.0))

    async def _sink_down(self, name: str) -> None:
        host = f"{self.world.choice(name, SINKS)}.example"
        seconds = self.world.between(name, 5.0, 60.0)
        self.deployment.destinations.down_until[host] = self.world.loop.time() + seconds
