"""Run the shared deletion suite on every database, and one test for databases with several writers."""

from pathlib import Path

import psycopg
import pytest

from tests.suites.store_retention_suite import LATER, StoreRetention, left, over, whole
from tests.support.builders import NOW
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.storage.store import Store


class TestSqlite(StoreRetention):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(StoreRetention):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()

    async def test_deletion_skips_locked_rows_without_waiting(self, store: Store, url: str) -> None:
        await store.apply([whole(over(n)) for n in (1, 2)])
        async with await psycopg.AsyncConnection.connect(url) as other:
            await other.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", (over(1).id,))
            step = await store.retention.delete_old(until=NOW, now=LATER, after=None, limit=10)
            assert step.tasks == 1
        assert await left(store) == [over(1).id]
        assert (await store.retention.delete_old(until=NOW, now=LATER, after=None, limit=10)).tasks == 1
