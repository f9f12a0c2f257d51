"""Test that Homing's revision has its own table, next to other Alembic users in the same database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.storage import migrate
from tracker.storage.store import Store

SOMEBODY_ELSE = ("CREATE TABLE alembic_version (version_num VARCHAR(32))", "CREATE TABLE orders (id TEXT)")


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'homing.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh(migrated=False)


@pytest.fixture
def engine(empty: str) -> Iterator[Engine]:
    engine = create_engine(empty)
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def revisions(engine: Engine, table: str) -> list[str]:
    with engine.begin() as connection:
        if not inspect(connection).has_table(table):
            return []
        return [each for (each,) in connection.execute(text(f"SELECT version_num FROM {table} ORDER BY 1"))]


def as_before(engine: Engine, revision: str) -> None:
    """Make the tables of a former version, which kept its revision in Alembic's usual table."""
    with engine.begin() as connection:
        migrate.upgrade(connection, to=revision)
        connection.execute(text("CREATE TABLE alembic_version AS SELECT * FROM homing_schema_version"))
        connection.execute(text("DROP TABLE homing_schema_version"))


@pytest.mark.parametrize("revision", ["0001", "head"])
async def test_former_version_table_is_adopted(empty: str, engine: Engine, revision: str) -> None:
    as_before(engine, revision)
    (found,) = revisions(engine, "alembic_version")

    done = await Store(empty).migrate()

    assert done.before == found
    assert revisions(engine, "homing_schema_version") == [done.after]
    assert revisions(engine, "alembic_version") == []
    assert (await Store(empty).migrate()).before == done.after


async def test_former_version_table_needs_no_migration(empty: str, engine: Engine) -> None:
    as_before(engine, "head")

    store = Store(empty)
    await store.open()
    assert await store.revision() is not None
    await store.close()


async def test_former_version_table_of_newer_code_is_refused(empty: str, engine: Engine) -> None:
    as_before(engine, "head")
    run(engine, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreUnavailable, match="later version of Homing"):
        await Store(empty).migrate()
    assert revisions(engine, "alembic_version") == ["9999"]


@pytest.mark.parametrize("heads", [[], ["0001"], ["0001", "ae1027a6acf"]])
async def test_foreign_alembic_table_is_left_alone(empty: str, engine: Engine, heads: list[str]) -> None:
    run(engine, *SOMEBODY_ELSE, *(f"INSERT INTO alembic_version VALUES ('{head}')" for head in heads))

    assert (await Store(empty).migrate()).before is None

    store = Store(empty)
    await store.open()
    await store.ping()
    await store.close()
    assert revisions(engine, "alembic_version") == heads


async def test_foreign_tables_are_named(empty: str, engine: Engine) -> None:
    run(engine, *SOMEBODY_ELSE, "CREATE TABLE tasks (id TEXT)", "CREATE TABLE events (id TEXT)")

    with pytest.raises(StoreUnavailable, match=r"another program \(events, tasks\), and that program's own Alembic"):
        await Store(empty).migrate()
    with engine.begin() as connection:
        assert sorted(inspect(connection).get_table_names()) == ["alembic_version", "events", "orders", "tasks"]
