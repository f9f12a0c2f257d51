"""Incidents: what happens to the machine under a running Homing."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from tests.simulation.deployment import Deployment
from tests.simulation.faulty_sqlite import Disk
from tests.simulation.sinks import SINKS
from tests.simulation.world import Forgotten, World

# How many steps of the event loop after its moment a kill may fall on.
KILL_STEPS: Final = 400


class Incidents:
    """One incident is one trouble at one moment; the first of each history is a kill."""

    def __init__(self, world: World, deployment: Deployment, disk: Disk) -> None:
        self.world = world
        self.deployment = deployment
        self.disk = disk
        # Only one incident at a time touches the file.
        self._file = asyncio.Lock()
        self._kinds: dict[str, Callable[[str], Awaitable[None]]] = {
            "kill": self._kill,
            "restart": self._restart,
            "clock set": self._set_clock,
            "database locked": self._lock,
            "disk full": self._fill_disk,
            "disk fails": self._break_disk,
            "file moved away": self._move_file,
            "backup restored": self._restore_backup,
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
        loop, killed = self.world.loop, asyncio.Event()

        def kill() -> None:
            self.deployment.kill()
            killed.set()

        loop.call_before_step(loop.steps + int(self.world.between(name, 1, KILL_STEPS)), kill)
        await killed.wait()

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
        async with self._file:
            await self._hold_lock(name)

    async def _hold_lock(self, name: str) -> None:
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
        """Move the file and its companions away, and back a little later.

        A process that was started meanwhile has a new file. It refuses all requests until the operator restarts it.
        """
        async with self._file:
            moved_at = self.world.loop.time()
            moved = [each for each in self._files() if each.exists()]
            for each in moved:
                each.rename(each.with_name(f"{each.name}.away"))
            await asyncio.sleep(self.world.between(name, 0.2, 4.0))
            is_foreign = self.deployment.database.exists()
            self._delete_files()
            for each in moved:
                each.with_name(f"{each.name}.away").rename(each)
            if is_foreign:
                await self.deployment.stopped()
                self.deployment.kill()
                now = self.world.loop.time()
                self.world.forgotten.append(Forgotten(taken_at=moved_at, deleted_at=now, over_at=now, foreign=True))

    async def _restore_backup(self, name: str) -> None:
        """Take a backup, and restore it later: while the process is stopped, or under the running one.

        Under a running process the operator replaces the file, or deletes it and puts the backup there after a moment.
        Then the process is started again.
        """
        world = self.world
        how = world.choice(name, ("stopped", "replaced", "deleted"))
        async with self._file:
            backup, taken_at = self._backup(name), world.loop.time()
        await asyncio.sleep(world.between(name, 1.0, 25.0))
        async with self._file:
            if how == "stopped":
                await self.deployment.stopped()
                self.deployment.kill()
            self._delete_files()
            deleted_at, foreign = world.loop.time(), False
            if how == "deleted":
                await asyncio.sleep(world.between(name, 0.2, 4.0))
                # A process that was started meanwhile has a new file, which is lost as well.
                if self.deployment.database.exists():
                    deleted_at, foreign = world.loop.time(), True
                self._delete_files()
            backup.rename(self.deployment.database)
            world.note(f"a backup of {taken_at:.4f} is restored: {how}")
            if how != "stopped":
                await asyncio.sleep(world.between(name, 0.5, 5.0))
                await self.deployment.stopped()
                self.deployment.kill()
            world.forgotten.append(
                Forgotten(taken_at=taken_at, deleted_at=deleted_at, over_at=world.loop.time(), foreign=foreign)
            )

    def _backup(self, name: str) -> Path:
        """Copy the database as SQLite's own backup does."""
        copy = self.deployment.database.with_name(f"{name}.backup")
        with closing(sqlite3.connect(self.deployment.database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return copy

    def _delete_files(self) -> None:
        for each in self._files():
            each.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Return the paths of the database file and of its companions."""
        file = self.deployment.database
        return [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm")]

    async def _outage(self, name: str) -> None:
        self.deployment.provider.outage(self.world.between(name, 2.0, 40.0))

    async def _refuse_credential(self, name: str) -> None:
        self.deployment.provider.refuse_credential(self.world.between(name, 2.0, 40.0))

    async def _sink_down(self, name: str) -> None:
        host = f"{self.world.choice(name, SINKS)}.example"
        seconds = self.world.between(name, 5.0, 60.0)
        self.deployment.destinations.down_until[host] = self.world.loop.time() + seconds
