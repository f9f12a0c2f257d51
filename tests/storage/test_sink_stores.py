"""Sinks, their progress and their deliveries on every database."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from tests.suites.store_deliveries_suite import StoreDeliveries
from tests.suites.store_progress_suite import SECOND, StoreProgress, failure, happened, held, settled
from tests.support.builders import NOW
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.model.sinks import ReplayFilter
from tracker.storage.store import Store

LOCKED = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
LATER = NOW + 3_600 * SECOND


class TestSqlite(StoreProgress, StoreDeliveries):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(StoreProgress, StoreDeliveries):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()

    @pytest.mark.parametrize(
        "moves",
        [
            lambda store: store.progress.make_due("shop", now=NOW),
            lambda store: store.sinks.switch("shop", on=True, now=NOW, from_now=True),
            lambda store: store.sinks.delete("shop"),
            lambda store: store.deliveries.dead_letter("shop", now=NOW, dry_run=False),
            lambda store: store.deliveries.replay(
                "shop", ReplayFilter(since=NOW), lambda _: True, now=NOW, dry_run=False
            ),
        ],
        ids=["hurry", "switch", "remove", "give up", "replay"],
    )
    async def test_delivery_changes_lock_the_sink_first(
        self, store: Store, url: str, moves: Callable[[Store], Awaitable[object]]
    ) -> None:
        events = await happened(store, 2, 1)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=tuple(failure(event, next_at=LATER) for event in events))
        connect = psycopg.AsyncConnection.connect
        async with await connect(url, autocommit=True) as looking, await connect(url) as other:
            await other.execute("SELECT 1 FROM sinks FOR UPDATE")
            moving = asyncio.ensure_future(moves(store))
            async with asyncio.timeout(20):
                while not await (await looking.execute(LOCKED)).fetchall():
                    assert not moving.done()
            # The lock order prevents a deadlock between the holder of the sink and its waiters.
            await other.execute("SELECT 1 FROM deliveries FOR UPDATE NOWAIT")
        await moving
