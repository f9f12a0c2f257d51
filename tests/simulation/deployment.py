"""The Homing of one history: one database file, and the process that serves it, which is killed and started again."""

import asyncio
import sqlite3
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from tests.simulation.http_caller import Answer, Broken, call
from tests.simulation.process import KEYS, Process
from tests.simulation.provider import Provider
from tests.simulation.sinks import Destinations
from tests.simulation.world import World

RESTART_SECONDS: Final = (0.3, 4.0)
# An incident that keeps a process from starting is over by then.
MOST_STARTS: Final = 60


class Deployment:
    """``process`` is the one that runs now, or None."""

    def __init__(self, world: World, database: Path) -> None:
        self.world = world
        self.database = database
        self.destinations = Destinations(world)
        self.provider = Provider(world, self.post_callback)
        self.process: Process | None = None
        # The times of the loop at which a process ended.
        self.restarted_at: list[float] = []
        self._number = 0
        # Not set while a process stops cleanly. It still works then, and uses the database.
        self._none_stops = asyncio.Event()
        self._none_stops.set()
        # Every process of the history: what a killed one had begun is kept to the end.
        self._past: list[Process] = []

    async def start(self, *, tries: int = MOST_STARTS) -> None:
        """Start a process as a supervisor does: again, if it cannot. Raises the error of the last try."""
        for left in reversed(range(tries)):
            self._number += 1
            process = Process(
                self.world, self._number, self.database, provider=self.provider, destinations=self.destinations
            )
            self._past.append(process)
            try:
                await process.start()
            except Exception:
                process.kill()
                if not left:
                    raise
                await asyncio.sleep(1.0)
            else:
                self.process = process
                return

    def kill(self) -> None:
        """Kill the process at this very step; it is started again a little later."""
        process, self.process = self.process, None
        if process is None:
            return
        self.world.note(f"{process.life.name} is killed")
        self.restarted_at.append(self.world.loop.time())
        process.kill()
        self.world.start(self._restart())

    async def restart(self) -> None:
        """Stop cleanly, and start again."""
        process, self.process = self.process, None
        if process is not None:
            self._none_stops.clear()
            await process.stop()
            self._none_stops.set()
            self.restarted_at.append(self.world.loop.time())
            await self.start()

    async def stopped(self) -> None:
        """Wait until no process is stopping. ``kill`` does not end such a process."""
        await self._none_stops.wait()

    async def stop(self) -> None:
        if self.process is not None:
            await self.process.stop()

    def discard(self) -> None:
        """Destroy what the processes of this history left behind, once nothing runs any more."""
        for process in self._past:
            process.life.discard()

    async def _restart(self) -> None:
        await asyncio.sleep(self.world.between("restart", *RESTART_SECONDS))
        await self.start()

    async def request(
        self,
        client: str,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        hang_up_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request of a client. Raises Broken."""
        process = self.process
        if process is None or process.app is None:
            raise Broken("nothing listens")
        all_headers = {"authorization": f"Bearer {KEYS[client]}", **(headers or {})}
        if body:
            all_headers["content-type"] = "application/json"
        answer = await call(
            process.app, process.life, method, url, headers=all_headers, body=body, hang_up_after=hang_up_after
        )
        self._note_error(answer, f"{method} {url}")
        return answer

    async def post_callback(self, url: str, headers: dict[str, str], body: bytes) -> int | None:
        """Send one request of the provider; None where there is no answer."""
        process = self.process
        if process is None or process.app is None:
            return None
        all_headers = {"content-type": "application/json", **headers}
        try:
            answer = await call(process.app, process.life, "POST", url, headers=all_headers, body=body)
        except Broken:
            return None
        self._note_error(answer, "a callback")
        return answer.status

    def _note_error(self, answer: Answer, what: str) -> None:
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.world.internal_errors.append(f"{what}: {answer.body[:200]!r}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the database as any other program would."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
