"""The one connection that writes to a file: batches on the event loop, their commits and all else in its thread."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.engine.base import RootTransaction

from tests.simulation.faulty_sqlite import Disk, faulty_sqlite
from tests.support.builders import Deciding, a_task, writing
from tests.support.databases import sqlite_url
from tracker.errors import CommitUnknown
from tracker.model.changes import Change, Known, Work
from tracker.model.clock import utc_now
from tracker.storage.engine.sqlite import SLOW
from tracker.storage.store import Store


@asynccontextmanager
async def opened(folder: Path, busy: timedelta = timedelta(seconds=20)) -> AsyncIterator[Store]:
    store = Store(sqlite_url(folder), busy=busy)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_failed_commit_may_be_committed(tmp_path: Path) -> None:
    """The disk fails after the commit. The rows may be there, so the outcome is unknown."""
    disk = Disk()
    with faulty_sqlite(disk, utc_now):
        async with opened(tmp_path) as store:
            await store.apply([writing(a_task(1))])
            disk.fail_after, disk.after_commit = 0, True

            with pytest.raises(CommitUnknown, match="the disk failed"):
                await store.apply([writing(a_task(2))])

            assert await store.tasks.get(a_task(2).id) is not None


def where(*, pause: float = 0.0) -> Work[str]:
    """Return a change that reports the thread of its decision, after ``pause`` seconds."""

    def decide(_: Known) -> Change[str]:
        time.sleep(pause)
        return Change(result=threading.current_thread().name)

    return Deciding(keys=frozenset(), decide=decide)


async def test_batch_runs_on_loop_until_disk_is_slow(tmp_path: Path) -> None:
    here = threading.current_thread().name
    async with opened(tmp_path) as store:
        assert await store.apply([where(), where()]) == [here, here]
        assert await store.apply([where(pause=2 * SLOW.total_seconds())]) == [here]
        (after,) = await store.apply([where()])
        assert after.startswith("homing writes")


async def test_batch_waits_for_earlier_transactions(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        pings = [asyncio.create_task(store.ping()) for _ in range(3)]
        await asyncio.sleep(0)
        (result,) = await store.apply([where()])
        assert result.startswith("homing writes")
        assert all(ping.done() for ping in pings)


@pytest.mark.parametrize("busy", [timedelta(seconds=20), timedelta(milliseconds=1)])
async def test_foreign_lock_does_not_block_the_loop(tmp_path: Path, busy: timedelta) -> None:
    async with opened(tmp_path, busy) as store:
        with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            written = asyncio.create_task(store.apply([writing(a_task())]))
            # The loop goes on; with a short patience the store gives up meanwhile, with a long one it is let in.
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert written.done() is (busy < timedelta(seconds=1))
            other.execute("ROLLBACK")
        if written.done():
            assert "locked" in str(written.exception())
        await asyncio.gather(written, return_exceptions=True)
        await store.apply([writing(a_task(2))])
        assert (await store.tasks.get(a_task().id) is None) is (busy < timedelta(seconds=1))
        assert await store.tasks.get(a_task(2).id) is not None


async def test_batch_failure_on_loop_is_rolled_back(tmp_path: Path) -> None:
    def fail(_: Known) -> Change[None]:
        raise RuntimeError("a bug")

    async with opened(tmp_path) as store:
        with pytest.raises(RuntimeError):
            await store.apply([writing(a_task()), Deciding(keys=frozenset(), decide=fail)])
        with pytest.raises(Exception, match="UNIQUE"):
            await store.apply([writing(a_task(3, external_id="x")), writing(a_task(4, external_id="x"))])
        await store.apply([writing(a_task(2))])
        kept = [await store.tasks.get(a_task(number).id) is not None for number in range(1, 5)]
        assert kept == [False, True, False, False]


async def test_batch_of_canceled_caller_is_committed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        gone = asyncio.create_task(store.apply([writing(a_task())]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await store.apply([writing(a_task(2))])
        assert await store.tasks.get(a_task().id) is not None


@pytest.mark.parametrize("batch", [True, False])
async def test_failed_commit_leaves_next_transaction_free(tmp_path: Path, *, batch: bool) -> None:
    async with opened(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
            # SQLite does not undo by itself a transaction whose commit breaks such a rule.
            other.execute("CREATE TABLE late (id TEXT REFERENCES tasks (id) DEFERRABLE INITIALLY DEFERRED)")
            what = "ON tasks" if batch else "ON counters"
            other.execute(f"CREATE TRIGGER breaks AFTER INSERT {what} BEGIN INSERT INTO late VALUES ('none'); END")
            with pytest.raises(Exception, match="FOREIGN KEY"):
                await (store.apply([writing(a_task())]) if batch else store.ping())
            other.execute("DROP TRIGGER breaks")
        await store.apply([writing(a_task(2))])
        await store.ping()
        assert [await store.tasks.get(a_task(number).id) is not None for number in (1, 2)] == [False, True]


@pytest.mark.parametrize("slow", [False, True], ids=["on the loop", "in the thread"])
async def test_writes_continue_after_commit_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool
) -> None:
    commit, failures = RootTransaction._connection_commit_impl, [MemoryError()]  # noqa: SLF001 - there is no other way in

    def short_of_memory(transaction: RootTransaction) -> None:
        if failures:
            raise failures.pop()
        commit(transaction)

    async with opened(tmp_path) as store:
        if slow:
            await store.apply([where(pause=2 * SLOW.total_seconds())])
        monkeypatch.setattr(RootTransaction, "_connection_commit_impl", short_of_memory)
        with pytest.raises(CommitUnknown, match="no free memory"):
            await store.apply([writing(a_task(1))])
        await store.apply([writing(a_task(2))])

        assert await store.tasks.get(a_task(1).id) is None
        assert await store.tasks.get(a_task(2).id) is not None


async def test_close_never_closes_two_connections_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise SQLite can leave the log beside the file, and a copy of the file lacks commits."""
    closing_now, most = 0, 0

    class SlowlyClosed(sqlite3.Connection):
        def close(self) -> None:
            nonlocal closing_now, most
            closing_now += 1
            most = max(most, closing_now)
            time.sleep(0.02)
            super().close()
            closing_now -= 1

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=SlowlyClosed))
    async with opened(tmp_path) as store:
        await store.apply([writing(a_task(1))])
        assert await store.tasks.get(a_task(1).id) is not None

    assert most == 1
    assert not (tmp_path / "homing.db-wal").exists()
