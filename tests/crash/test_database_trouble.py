"""The database is down, full, locked or read-only under load, and recovers: the server survives it.

The server answers 503 with Retry-After, and /readyz fails with the reason. Everything recovers without a restart.
After the senders repeat their requests, nothing acknowledged is lost and nothing is recorded twice.
"""

import asyncio
import os
import re
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import psycopg
import pytest

from tests.support.builders import writing
from tests.support.callback_senders import SECRETS, Delivery, Senders, deliveries, tasks
from tests.support.conditions import until
from tests.support.database_proxy import database_proxy
from tests.support.database_records import agree, hold_exactly, records
from tests.support.databases import sqlite_url
from tests.support.deployment import HOMING, Server, server
from tests.support.failing_stores import READ_ONLY, WRITABLE
from tests.support.postgres import Postgres
from tests.support.postgres import running as running_postgres
from tracker.service.recorder import QUEUE_BOUND
from tracker.storage.store import Store

pytestmark = pytest.mark.timeout(400)
NOBODY = "http://127.0.0.1:9"
TASKS = 300
WARM = 100
REFUSED = 200
# Of a busy machine. While the database is away, each refusal takes a while.
PATIENCE_SECONDS = 90
MIB = 1 << 20


async def add_tasks(url: str) -> list[Delivery]:
    """Add open tasks, and return all their callbacks in random order."""
    store = Store(url)
    await store.open()
    made = tasks(1, TASKS)
    await store.apply([writing(task) for task in made])
    await store.close()
    callbacks = [delivery for task in made for delivery in deliveries(task)]
    Random(TASKS).shuffle(callbacks)
    return callbacks


@asynccontextmanager
async def served(folder: Path, url: str, *arguments: str, program: Sequence[str] = HOMING) -> AsyncIterator[Server]:
    async with server(folder, NOBODY, database_url=url, log_level="warning", **SECRETS) as homing:
        await homing.start(*arguments, program=program)
        yield homing


async def readiness(homing: Server) -> str:
    """Return why the server is not ready, or an empty string."""
    answer = await homing.client.get("/readyz")
    body = answer.json()
    assert answer.status_code == (200 if body["ready"] else 503)
    return "; ".join(check["detail"] for check in body["checks"] if check["fatal"] and not check["ok"])


async def outlives(
    homing: Server, url: str, sent: Sequence[Delivery], troubles: Sequence[tuple[AbstractContextManager[None], str]]
) -> Senders:
    """Send callbacks through all troubles, each with the reason that /readyz shows, and check the records."""
    senders = Senders(port=homing.port)
    sending = asyncio.create_task(senders.insist(sent))

    async def warm() -> bool:
        return len(senders.acknowledged) >= before + WARM or sending.done()

    async def refused() -> bool:
        return senders.statuses[503] >= answered + REFUSED

    for trouble, reason in troubles:
        before = len(senders.acknowledged)
        await until(warm)
        assert not sending.done(), "the load was over too soon"
        with trouble:

            async def red(reason: str = reason) -> bool:
                return re.search(reason, await readiness(homing)) is not None

            answered = senders.statuses[503]
            await until(refused, within=PATIENCE_SECONDS)
            await until(red, within=PATIENCE_SECONDS)

    async def green() -> bool:
        return await readiness(homing) == ""

    await until(green, within=PATIENCE_SECONDS)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sending
    assert homing.lives[-1].poll() is None
    assert senders.hasty == [], "a 503 without Retry-After"
    assert senders.statuses.keys() <= {200, 503}
    found = records(url)
    agree(found)
    hold_exactly(found, sent)
    return senders


# PostgreSQL


@contextmanager
def stopped(postgres: Postgres, mode: str) -> Iterator[None]:
    postgres.stop(mode)
    try:
        yield
    finally:
        postgres.start()


@contextmanager
def demoted(postgres: Postgres) -> Iterator[None]:
    """Make the server refuse writes, like a standby."""

    def switch(value: bytes) -> None:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            admin.execute(b"SET default_transaction_read_only = off")
            admin.execute(b"ALTER SYSTEM SET default_transaction_read_only = " + value)
            admin.execute(b"SELECT pg_reload_conf()")

    switch(b"on")
    try:
        yield
    finally:
        switch(b"off")


async def test_postgres_stopped_under_load_recovers(tmp_path: Path) -> None:
    with running_postgres() as postgres:
        url = postgres.fresh()
        sent = await add_tasks(url)
        gone = "cannot be reached|lost|stopping"
        async with served(tmp_path, url) as homing:
            troubles = [
                (stopped(postgres, "immediate"), gone),
                (demoted(postgres), "read-only"),
                (stopped(postgres, "fast"), gone),
            ]
            await outlives(homing, url, sent, troubles)


async def test_connections_cut_at_commit_lose_nothing(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.fresh()
    sent = await add_tasks(url)
    socket = f"{url.partition('host=')[2]}/.s.PGSQL.5432"
    name = url.rpartition("?")[0].rpartition("/")[2]
    async with database_proxy(socket) as line:
        through = f"postgresql://postgres@127.0.0.1:{line.port}/{name}"
        async with served(tmp_path, through) as homing:
            line.every = 5
            senders = Senders(port=homing.port)
            chance = Random(1)

            def heard() -> None:
                if chance.random() < 1 / 200:
                    line.cut()

            senders.heard = heard
            async with asyncio.timeout(90):
                await senders.insist(sent)
            line.every = 0
    assert min(line.cuts.values()) > 2, line.cuts
    assert senders.hasty == []
    assert senders.statuses.keys() <= {200, 503}
    found = records(url)
    agree(found)
    hold_exactly(found, sent)
    assert any(kept.repeats for kept in found.kept), "no commit lost its answer"


# SQLite


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk of a few megabytes, which needs root."""
    mount = shutil.which("mount")
    size = ["-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *size], check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


async def test_full_disk_under_load_recovers(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        url = sqlite_url(disk)
        sent = await add_tasks(url)
        async with served(tmp_path, url) as homing:
            await outlives(homing, url, sent, [(filled(disk), "the disk is full"), (filled(disk), "the disk is full")])


@contextmanager
def nothing_written(pid: int) -> Iterator[None]:
    """Make every write of a process fail, as on a broken disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def test_failing_writes_under_load_recover(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    sent = await add_tasks(url)
    async with served(tmp_path, url) as homing:
        await outlives(homing, url, sent, [(nothing_written(homing.lives[-1].pid), "the disk failed")])


@contextmanager
def read_only(pid: int) -> Iterator[None]:
    os.kill(pid, READ_ONLY)
    try:
        yield
    finally:
        os.kill(pid, WRITABLE)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the SQLite lock, as a backup does."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def moved(file: Path) -> Iterator[None]:
    """Move the file away for a while."""
    kept = file.with_name("kept.db")
    file.rename(kept)
    yield
    kept.rename(file)


@pytest.mark.timeout(300)
async def test_full_queue_answers_503_with_bounded_memory(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    sent = await add_tasks(url)
    async with served(tmp_path, url, "--policy", "silent", "--commit-timeout", "0.25", program=()) as homing:
        flood = Senders(port=homing.port, count=512)
        with locked(tmp_path / "homing.db"):
            # No request is answered in time, so the queue grows to its bound.
            flooding = asyncio.create_task(flood.insist(sent))
            grown = []
            for count in (QUEUE_BOUND + 200, QUEUE_BOUND + 2200):
                await until(partial(turned_away, flood, count), within=100)
                grown.append(memory(homing.lives[-1].pid))
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
        assert flood.statuses.keys() == {503}
        senders = Senders(port=homing.port, count=8)
        async with asyncio.timeout(60):
            await senders.insist(sent)
    assert grown[1] - grown[0] < 2 * MIB, "it queues without bound"
    assert flood.hasty == senders.hasty == [], "a 503 without Retry-After"
    found = records(url)
    agree(found)
    hold_exactly(found, sent)


async def turned_away(senders: Senders, count: int) -> bool:
    return senders.statuses[503] >= count


def memory(pid: int) -> int:
    """Return how many bytes of memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_file_read_only_locked_or_moved_recovers(tmp_path: Path) -> None:
    file = tmp_path / "homing.db"
    url = f"sqlite:///{file}"
    sent = await add_tasks(url)
    async with served(tmp_path, url, "--policy", "silent", "--impatient", program=()) as homing:
        troubles = [
            (read_only(homing.lives[-1].pid), "the database is read-only"),
            (locked(file), "locked by another process"),
            (moved(file), "deleted or moved"),
        ]
        await outlives(homing, url, sent, troubles)
