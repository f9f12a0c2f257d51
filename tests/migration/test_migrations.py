"""The migrations make exactly the tables that the code uses, and a released one is never changed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlmodel import SQLModel

from tests.builders import a_task, writing
from tracker.errors import StoreUnavailable
from tracker.storage import migrate, tables
from tracker.storage.store import Store

SNAPSHOT = Path(__file__).parent / "0001_the_first_schema.sql"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'homing.db'}")
    yield engine
    engine.dispose()


def schema(connection: Connection) -> str:
    """Give the statements that made the tables and indexes, as the database keeps them."""
    made = connection.execute(
        text(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version' ORDER BY type DESC, name"
        )
    ).scalars()
    return "".join(f"{' '.join(statement.split())};\n" for statement in made)


def test_the_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.begin() as connection:
        migrate.upgrade(connection)
        assert inspect(connection).get_table_names() == sorted([*SQLModel.metadata.tables, "alembic_version"])
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.TaskRow.metadata) == []


def test_the_migrated_database_is_the_one_that_the_tables_would_make(engine: Engine, tmp_path: Path) -> None:
    """Compare what the database keeps: Alembic's own comparison does not see an index's condition."""
    with engine.begin() as connection:
        migrate.upgrade(connection)
        migrated = schema(connection)
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with other.begin() as connection:
        SQLModel.metadata.create_all(connection)
        made = schema(connection)
    other.dispose()
    indexes = [[line for line in one.splitlines() if "INDEX" in line] for one in (migrated, made)]
    assert sorted(indexes[0]) == sorted(indexes[1])


def test_the_first_schema_is_frozen(engine: Engine) -> None:
    """A change of it belongs into a migration of its own: databases out there were made by this one."""
    with engine.begin() as connection:
        migrate.upgrade(connection, to="0001")
        assert schema(connection) == SNAPSHOT.read_text()


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        migrate.upgrade(connection)
        once = schema(connection)
        connection.execute(text("INSERT INTO counters (name, value) VALUES ('polls', 7)"))
    with engine.begin() as connection:
        migrate.upgrade(connection)
        assert schema(connection) == once
        assert connection.execute(text("SELECT value FROM counters")).scalar_one() == 7


def test_a_migration_that_fails_leaves_the_database_as_it_was(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tasks (id TEXT)"))
        before = schema(connection)
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()
    with engine.connect() as connection, pytest.raises(StoreUnavailable, match="another program"):
        migrate.upgrade(connection)
    with engine.connect() as connection:
        assert schema(connection) == before


async def test_opening_the_store_migrates_an_empty_database_and_keeps_a_full_one(tmp_path: Path) -> None:
    for opening in (1, 2):
        store = Store(f"sqlite:///{tmp_path / 'homing.db'}")
        await store.open()
        if opening == 1:
            await store.apply([writing(a_task())])
        assert await store.task(a_task().id) == a_task()
        await store.close()
