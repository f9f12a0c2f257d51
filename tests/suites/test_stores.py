"""Every database passes the shared suite, each test on a fresh database of both.

The other tests cover file errors: each raises StoreUnavailable with advice, and recovers without a restart.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.suites.store_reads_suite import StoreReads
from tests.suites.store_suite import StoreWrites
from tests.support.builders import NOW, a_task, writing
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.errors import SettingsError, StoreUnavailable
from tracker.model.changes import Work
from tracker.storage.store import Store

NOBODY = 65534
SOON = timedelta(milliseconds=50)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'homing.db'}"


class TestSqlite(StoreWrites, StoreReads):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(StoreWrites, StoreReads):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    store = Store(sqlite(folder), busy=SOON)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def ended(before: set[threading.Thread]) -> bool:
    """Wait a little for the threads that were started since to end, but for those that asyncio keeps for later."""
    for _ in range(200):
        left = [thread for thread in threading.enumerate() if thread not in before]
        if all(thread.name.startswith("asyncio") for thread in left):
            return True
        await asyncio.sleep(0.01)
    return False


def heavy(number: int) -> Work[Any]:
    return writing(a_task(number, request={"prompt": "x" * 50_000}))


async def test_locked_database_is_unavailable_until_free(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked by another process"):
                await store.apply([writing(a_task())])
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.ping()
            assert await store.tasks.get(a_task().id) is None
            other.execute("ROLLBACK")
        await store.apply([writing(a_task())])
        assert await store.tasks.get(a_task().id) == a_task()


async def test_locked_database_open_fails_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store = Store(sqlite(tmp_path), busy=SOON)
        with pytest.raises(StoreUnavailable, match="locked") as held:
            await store.open()
        other.execute("ROLLBACK")
    assert await ended(before), held
    await store.open()
    await store.ping()
    await store.close()


@contextmanager
def connections(pragma: str = "user_version") -> Iterator[list[Any]]:
    """Collect the driver's connections as they are made, each with ``pragma`` set first."""
    made: list[Any] = []

    def note(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        made.append(connection)

    event.listen(Engine, "connect", note)
    try:
        yield made
    finally:
        event.remove(Engine, "connect", note)


async def test_full_disk_is_unavailable_until_space_is_free(tmp_path: Path) -> None:
    with connections("max_page_count=80") as made:
        async with opened(tmp_path) as store:
            await store.apply([writing(a_task(1))])
            with pytest.raises(StoreUnavailable, match="disk is full"):
                await store.apply([heavy(number) for number in range(2, 12)])
            assert await store.tasks.get(a_task(1).id) == a_task(1)
            assert await store.tasks.get(a_task(2).id) is None
            for connection in made:
                connection.execute("PRAGMA max_page_count=100000")
            await store.apply([heavy(number) for number in range(2, 12)])
            assert await store.tasks.get(a_task(11).id) is not None


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a database read-only. Root drops its privileges meanwhile, because it ignores file permissions."""
    user = os.geteuid()
    (folder / "homing.db").chmod(0o444)
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        (folder / "homing.db").chmod(0o644)


async def test_read_only_file_is_unavailable_until_writable() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with opened(folder) as store:
            await store.apply([writing(a_task())])
        with read_only(folder):
            store = Store(sqlite(folder), busy=SOON)
            with pytest.raises(StoreUnavailable, match=r"read-only|cannot be opened"):
                await store.open()
        await store.open()
        assert await store.tasks.get(a_task().id) == a_task()
        await store.close()


async def test_missing_folder_error_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="Check that its folder exists"):
        await Store(sqlite(tmp_path / "missing")).open()


async def test_file_not_a_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "homing.db").write_bytes(b"not a database, but somebody's notes " * 100)
    with pytest.raises(StoreUnavailable, match="not a SQLite database"):
        await Store(sqlite(tmp_path)).open()
    assert (tmp_path / "homing.db").read_bytes() == b"not a database, but somebody's notes " * 100


async def test_foreign_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE tasks (name TEXT)")
        with pytest.raises(StoreUnavailable, match=r"tables of another program \(tasks\)") as held:
            await Store(sqlite(tmp_path)).open()
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("tasks",)]
    assert await ended(before), held


async def test_newer_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.apply([writing(a_task())])
    with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as later:
        later.execute("UPDATE homing_schema_version SET version_num = '9999'")
        with pytest.raises(StoreUnavailable, match="a later version of Homing"):
            await Store(sqlite(tmp_path)).open()
        assert later.execute("SELECT count(*) FROM tasks").fetchone() == (1,)


async def test_commits_are_synced_and_foreign_keys_enforced(tmp_path: Path) -> None:
    with connections() as made:
        async with opened(tmp_path):
            for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
                (value,) = made[0].execute(f"PRAGMA {pragma}").fetchone()
                assert (pragma, value) == (pragma, expected)


async def test_file_is_private_to_its_user(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert (tmp_path / "homing.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@h", "sqlite://", "sqlite:///:memory:", "nonsense", "://", "mysql+pymysql://u:secret@h/d"],
)
def test_unusable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="HOMING_DATABASE_URL") as refused:
        Store(url)
    assert "secret" not in str(refused.value)


async def test_lease_waiter_is_not_woken_early(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert await store.due_tasks.next_due() is None
        await store.apply([writing(a_task(next_poll_at=NOW + SOON))])
        assert await store.due_tasks.next_due() == NOW + SOON


@pytest.mark.parametrize("verb", ["ping", "due_tasks.next_due"])
async def test_canceled_callers_leave_the_store_working(tmp_path: Path, verb: str) -> None:
    async with opened(tmp_path) as store:
        for steps in range(40):
            gone = asyncio.create_task(attrgetter(verb)(store)())
            for _ in range(steps):
                await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        async with asyncio.timeout(5):
            await asyncio.gather(*(store.ping() for _ in range(3)), *(store.due_tasks.next_due() for _ in range(8)))
