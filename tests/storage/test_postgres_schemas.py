"""Several Homings in one PostgreSQL database, each in a schema of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.builders import a_task, an_event, writing
from tests.support.conditions import until
from tests.support.postgres import Postgres
from tests.support.published_events import readable
from tracker.errors import SettingsError, StoreUnavailable
from tracker.model.changes import by_external_id
from tracker.model.task import Status
from tracker.settings import Settings
from tracker.storage.engine.bulk import SALT
from tracker.storage.engine.event_order import ORDER
from tracker.storage.engine.notices import PostgresNotices
from tracker.storage.store import Store

SCHEMAS = ("one", "two", None)
TASK = a_task(status=Status.PROCESSING, external_id="order-1")


@pytest.fixture
async def stores(postgres: Postgres) -> AsyncIterator[list[Store]]:
    """Return a Homing in each of two schemas and in the usual one, in the same database."""
    url = postgres.fresh(migrated=False)
    made = [Store(url, schema=schema, busy=timedelta(milliseconds=50)) for schema in SCHEMAS]
    for store in made:
        await store.migrate()
        await store.open()
    yield made
    for store in made:
        await store.close()


@contextmanager
def numbering(url: str, schema: str) -> Iterator[None]:
    """Hold the lock under which a schema's events get their ids."""
    with psycopg.connect(url) as connection:
        connection.execute(f"SET search_path = {schema}".encode())
        connection.execute(f"SELECT pg_advisory_xact_lock({ORDER} # {SALT})".encode())
        yield


async def test_schemas_of_one_database_are_isolated(stores: list[Store]) -> None:
    for number, store in enumerate(stores):
        task = replace(TASK, model=f"model-{number}")
        await store.apply([writing(task, by_external_id("studio", "order-1"), events=(an_event(task, 2),))])

    for number, store in enumerate(stores):
        found = await store.tasks.get(TASK.id)
        assert found is not None
        assert found.model == f"model-{number}"
        assert [event.cursor for event in readable(await store.events.read(after=0, limit=9))] == [1]

    for held, free, stuck in (("one", 1, 0), ("public", 0, 2)):
        await lock_holds_up(held, stores[free], stores[stuck])


async def lock_holds_up(held: str, free: Store, stuck: Store) -> None:
    """Hold a schema's lock: only the Homing in that schema waits for it."""
    work = writing(TASK, by_external_id("studio", "order-1"), events=(an_event(TASK, 3),))
    with numbering(free.name, held):
        await free.apply([work])
        with pytest.raises(StoreUnavailable, match="locked for too long"):
            await stuck.apply([work])


@pytest.mark.parametrize(
    ("own", "same", "other"), [("one", "one", "two"), (None, "public", "one"), ("one", "one", None)]
)
async def test_notification_stays_in_its_schema(
    postgres: Postgres, own: str | None, same: str | None, other: str | None
) -> None:
    url = make_url(postgres.fresh())
    with psycopg.connect(url.render_as_string(), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    notifications: list[None] = []
    listener, near, far = (PostgresNotices(url, schema) for schema in (own, same, other))
    listening = asyncio.create_task(listener.listen(lambda: notifications.append(None)))

    async def count(number: int) -> bool:
        return len(notifications) >= number

    await until(lambda: count(1))  # it listens
    await far.announce()
    await near.announce()
    await until(lambda: count(2))
    await near.announce()
    await until(lambda: count(3))

    assert len(notifications) == 3
    listening.cancel()
    await asyncio.gather(listening, near.close(), far.close(), return_exceptions=True)


async def test_missing_schema_is_created_only_by_migrate(postgres: Postgres) -> None:
    store = Store(postgres.fresh(), schema="own")
    with pytest.raises(StoreUnavailable, match=r"no tables yet\. Run `homing migrate`"):
        await store.open()

    assert (await store.migrate()).before is None
    await store.open()
    await store.close()


async def test_forbidden_schema_creation_is_named(postgres: Postgres) -> None:
    url = postgres.fresh(migrated=False)
    role = url.rpartition("?")[0].rpartition("/")[2]
    store = Store(url.replace("postgres@", f"{role}@", 1), schema="own")
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())

        with pytest.raises(StoreUnavailable, match="run CREATE SCHEMA own AUTHORIZATION"):
            await store.migrate()

        admin.execute(f"CREATE SCHEMA own AUTHORIZATION {role}".encode())
        await store.migrate()
        admin.execute("DROP SCHEMA own CASCADE")
        admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("name", ["pg_own", "Own", "a b", "1st", "x" * 64, 'a"; DROP SCHEMA public', "a,b", "$user"])
def test_schema_name_with_quotes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lowercase letters, digits and underscores"):
        Settings(database_url="postgresql://u@db/homing", database_schema=name)


def test_schema_of_a_sqlite_file_is_refused() -> None:
    with pytest.raises(ValueError, match="HOMING_DATABASE_SCHEMA is for PostgreSQL"):
        Settings(database_schema="own")
    with pytest.raises(SettingsError, match="HOMING_DATABASE_SCHEMA is for PostgreSQL"):
        Store("sqlite:///homing.db", schema="own")
