"""A server's lives: one address and one database, and processes that are killed and started again."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.support.api_keys import LOCAL_HEADERS, LOCAL_SETTING
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.forked_server import ROOT, Forked
from tests.support.homing_server import CAT, CREATE, KIND
from tests.support.provider_proxy import NO_TLS
from tracker.model.task import SETTLED
from tracker.model.untrusted import JsonObject
from tracker.service.lookups import FOUND_BY_EXTERNAL_ID

PAUSE = 0.1
SOON = 0.01
HOMING = ("-m", "homing", "serve")


class Life(Protocol):
    """One process, as ``subprocess.Popen`` shows it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> object: ...


@dataclass(slots=True, kw_only=True)
class Server:
    """One address; at most one process at a time."""

    port: int
    client: httpx.AsyncClient
    environ: dict[str, str]
    folder: Path
    lives: list[Life] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, *arguments: str, program: Sequence[str] = ()) -> None:
        """Begin a life and wait until it answers: the launcher's, or that of another Python ``program``."""
        life = self.begin(*arguments, program=program)

        async def ready() -> bool:
            assert life.poll() is None, f"the server ended: {self.logged()}"
            try:
                return (await self.client.get("/readyz")).is_success
            except httpx.TransportError:
                return False

        await until(ready, within=60, pause=SOON)

    def begin(self, *arguments: str, program: Sequence[str] = ()) -> Life:
        """Begin a life that may end before anybody sees it answer."""
        path = self.folder / f"life-{len(self.lives)}.log"
        if program:
            command = [sys.executable, *program, *arguments]
            with path.open("wb") as log:
                self.lives.append(subprocess.Popen(command, env=self.environ, cwd=ROOT, stdout=log, stderr=log))
        else:
            self.lives.append(Forked(arguments, self.environ, path))
        return self.lives[-1]

    def kill(self) -> None:
        self.lives[-1].kill()

    async def dead(self) -> None:
        """Wait until SIGKILL has ended this process."""

        async def ended() -> bool:
            return self.lives[-1].poll() is not None

        await until(ended, within=60, pause=SOON)
        assert self.lives[-1].returncode == -signal.SIGKILL, self.logged()

    async def sent(
        self, headers: dict[str, str] | None = None, *, path: str = CREATE, body: JsonObject = CAT, **changes: Any
    ) -> str:
        """Submit like a client that repeats the same request until it gets an answer; return the task ID."""
        answers: list[httpx.Response] = []

        async def answered() -> bool:
            try:
                answers.append(await self.client.post(path, json=dict(body) | changes, headers=headers))
            except httpx.TransportError:
                return False
            return answers[-1].status_code == 200

        await until(answered, within=90, pause=PAUSE)
        return str(answers[-1].json()["data"]["task_id"])

    async def tasks(self) -> list[dict[str, Any]]:
        return list((await self.client.get("/v1/tasks", params={"limit": "200"})).json()["tasks"])

    async def history(self, ref: str) -> list[dict[str, Any]]:
        return list((await self.client.get(f"/v1/tasks/{ref}/history")).json()["entries"])

    async def all_home(self) -> None:
        """Wait until every task is settled."""

        async def is_finished() -> bool:
            return all(task["status"] in SETTLED for task in await self.tasks())

        await until(is_finished, within=60, pause=PAUSE)

    def know_lookups(self, *kinds: str) -> None:
        """Record that lookups by external ID work, as a poll of the first task does unless its callback is faster."""
        at = int(datetime.now(UTC).timestamp() * 1_000_000)
        url = self.environ["HOMING_KLING_BASE_URL"]
        known = [(url, kind, FOUND_BY_EXTERNAL_ID, 1, at) for kind in kinds or (KIND,)]
        with closing(sqlite3.connect(self.folder / "homing.db", timeout=30)) as database, database:
            database.executemany("INSERT OR REPLACE INTO capabilities VALUES (?, ?, ?, ?, ?)", known)

    def logged(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("life-*.log")))

    def end(self) -> None:
        for life in self.lives:
            if life.poll() is None:
                life.kill()
            life.wait()


@asynccontextmanager
async def server(folder: Path, provider_url: str, **settings: str) -> AsyncIterator[Server]:
    """Reserve an address, so that no other program gets it before Homing listens there."""
    with closing(socket.socket()) as reserved:
        # Bound and not listening: the server can bind the address, and the system assigns it to no other program.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        usual = {
            "database_url": sqlite_url(folder),
            "port": str(port),
            "public_url": f"http://127.0.0.1:{port}",
            "kling_base_url": provider_url,
            "kling_api_key": "sandbox-api-key",
            "log_level": "debug",
            "api_keys": LOCAL_SETTING,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOMING_")}
        environ = kept | {f"HOMING_{name.upper()}": value for name, value in (usual | settings).items()}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=LOCAL_HEADERS, trust_env=False, verify=NO_TLS, timeout=30
        ) as client:
            found = Server(port=port, client=client, environ=environ, folder=folder)
            try:
                yield found
            finally:
                found.end()


async def forever() -> None:
    await asyncio.Event().wait()
