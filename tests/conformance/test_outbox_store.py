"""The outbox on every database."""

from pathlib import Path

import pytest

from tests.conformance.store_outbox_suite import StoreOutbox
from tests.postgres import Postgres


class TestSqlite(StoreOutbox):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'homing.db'}"


class TestPostgres(StoreOutbox):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()
