"""Test that event IDs are never reused: a reader with a cursor would skip the new event."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.suites.store_case import read
from tests.support.builders import NOW, a_task, an_event, writing
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.model.task import Status
from tracker.storage.store import Store


class EventIds:
    async def test_event_id_is_not_reused_after_deletion(self, store: Store, url: str) -> None:
        over = a_task(1, status=Status.SUCCEEDED, finished_at=NOW)
        await store.apply([writing(over, events=(an_event(over, 2), an_event(over, 3)))])
        ((seen,),) = read(url, "SELECT max(id) FROM events")
        later = NOW + timedelta(days=1)
        await store.retention.delete_old(until=later, now=later, after=None, limit=10)
        assert read(url, "SELECT count(*) FROM events") == [(0,)]
        await store.apply([writing(a_task(2), events=(an_event(a_task(2), 2),))])
        ((fresh,),) = read(url, "SELECT max(id) FROM events")
        assert fresh > seen


class TestSqlite(EventIds):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(EventIds):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()
