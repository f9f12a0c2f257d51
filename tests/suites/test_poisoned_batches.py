"""Bad pieces among good ones, on a fresh database of both kinds each time: the bad one fails, and it alone."""

from pathlib import Path

import pytest

from tests.suites.poisoned_suite import PoisonedBatches, PoisonedDeliveries
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres


class TestSqlite(PoisonedBatches, PoisonedDeliveries):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


class TestPostgres(PoisonedBatches, PoisonedDeliveries):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()
