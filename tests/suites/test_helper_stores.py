"""Run the shared suite of helper calls and owners on every database."""

from pathlib import Path

import pytest

from tests.suites.store_helpers_suite import StoreHelpers
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres


class TestSqlite(StoreHelpers):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(StoreHelpers):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()
