"""Test the readiness ping: it fails if a request could not be written."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.builders import a_task, an_entry, an_event, writing
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock
from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.service.readiness import KEPT, Readiness
from tracker.service.recorder import FAILURES, Recorder
from tracker.storage.store import Store

TASK = a_task()
WORK = writing(TASK, entries=(an_entry(TASK, "1"),), events=(an_event(TASK, 2),))


def damage(file: Path, name: str) -> None:
    """Overwrite the first page of a table or of an index."""
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [name]).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as raw:
        raw.seek((page - 1) * size)
        raw.write(bytes([0xFF]) * size)


async def filled(url: str) -> None:
    store = Store(url)
    await store.open()
    await store.apply([WORK])
    await store.close()


@pytest.mark.parametrize("table", ["tasks", "observations", "events"])
async def test_ping_of_a_damaged_table_fails(tmp_path: Path, table: str) -> None:
    url = sqlite_url(tmp_path)
    await filled(url)
    damage(tmp_path / "homing.db", table)
    store = Store(url)
    await store.open()

    with pytest.raises(StoreUnavailable, match="the database is damaged"):
        await store.ping()
    await store.close()


async def test_damaged_index_is_found_by_failing_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path)
    await filled(url)
    damage(tmp_path / "homing.db", "ix_tasks_kind")
    store, clock = Store(url), Clock()
    await store.open()
    recorder = Recorder(store)
    await recorder.open()
    readiness = Readiness(store=store, clock=clock, failing=lambda: recorder.trouble)
    assert [check.ok for check in await readiness.check()] == [True]

    for number in range(FAILURES):
        with pytest.raises(StoreUnavailable, match="the database is damaged"):
            await recorder.apply(writing(a_task(number + 2)))

    clock.advance(KEPT)
    (check,) = await readiness.check()
    assert not check.ok
    assert "requests could not be written: the database is damaged" in check.detail
    # A client that was refused because of it may retry and see the result.
    monkeypatch.setattr("tracker.service.recorder.FAILED_FOR", timedelta())
    assert recorder.trouble is None
    await recorder.close()
    await store.close()


@pytest.mark.parametrize("table", ["tasks", "observations", "events"])
async def test_ping_of_a_locked_table_fails(postgres: Postgres, table: str) -> None:
    url = postgres.fresh()
    store = Store(url, busy=timedelta(milliseconds=50))
    await store.open()
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        with pytest.raises(StoreUnavailable, match="locked for too long"):
            await store.ping()

    await store.ping()
    await store.close()


async def test_ping_changes_nothing_but_its_count(url: str) -> None:
    store = Store(url)
    await store.open()
    await store.apply([WORK])
    before = (
        await store.tasks.get(TASK.id),
        await store.tasks.history(TASK.id),
        await store.events.read(after=0, limit=9),
    )

    for _ in range(2):
        await store.ping()

    after = (
        await store.tasks.get(TASK.id),
        await store.tasks.history(TASK.id),
        await store.events.read(after=0, limit=9),
    )
    assert after == before
    await store.close()
