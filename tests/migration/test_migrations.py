"""The migrations make exactly the tables that the code uses, and a released one is never changed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text

from tests.migration import first_schema
from tests.support.builders import a_task, writing
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.storage import migrate, schema_revision, tables
from tracker.storage.columns import METADATA, complete_indexes
from tracker.storage.store import Store

SNAPSHOTS = {path.name[:4]: path for path in Path(__file__).parent.glob("*.sql")}
# PostgreSQL's own description of a schema.
DESCRIPTION = text(
    """
    SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || is_identity
        || coalesce(' ' || column_default, '')
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    """
)
complete_indexes()
OPTIONS = {"compare_type": True, "version_table": schema_revision.VERSION_TABLE}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'homing.db'}")
    yield engine
    engine.dispose()


def schema(connection: Connection) -> str:
    """Return the statements that made the tables and indexes, as the database keeps them."""
    made = connection.execute(
        text(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'homing_schema_version'"
            " ORDER BY type DESC, name"
        )
    ).scalars()
    return "".join(f"{' '.join(statement.split())};\n" for statement in made)


def test_migrations_create_exactly_the_code_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        migrate.upgrade(connection)
        assert inspect(connection).get_table_names() == sorted([*METADATA.tables, schema_revision.VERSION_TABLE])
        context = MigrationContext.configure(connection, opts=OPTIONS | {"compare_server_default": True})
        assert compare_metadata(context, tables.TaskRow.metadata) == []


def test_migrated_database_equals_a_new_one(engine: Engine, tmp_path: Path) -> None:
    """Compare the stored schema, because Alembic's comparison ignores the condition of an index."""
    with engine.begin() as connection:
        migrate.upgrade(connection)
        migrated = schema(connection)
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with other.begin() as connection:
        METADATA.create_all(connection)
        made = schema(connection)
    other.dispose()
    indexes = [[line for line in one.splitlines() if "INDEX" in line] for one in (migrated, made)]
    assert sorted(indexes[0]) == sorted(indexes[1])


def test_migrated_server_equals_a_new_one(postgres: Postgres) -> None:
    described = []
    for make in (migrate.upgrade, METADATA.create_all):
        engine = create_engine(postgres.fresh(migrated=False))
        with engine.begin() as connection:
            make(connection)
            if make is migrate.upgrade:
                context = MigrationContext.configure(connection, opts=OPTIONS)
                assert compare_metadata(context, METADATA) == []
            rows = connection.execute(DESCRIPTION).scalars()
            described.append(sorted(one for one in rows if schema_revision.VERSION_TABLE not in one))
        engine.dispose()
    assert described[0] == described[1]


@pytest.mark.parametrize("revision", sorted(SNAPSHOTS))
def test_schema_is_frozen(engine: Engine, revision: str) -> None:
    """A change of it belongs into a migration of its own: databases out there were made by this one."""
    with engine.begin() as connection:
        migrate.upgrade(connection, to=revision)
        assert schema(connection) == SNAPSHOTS[revision].read_text()


def test_schema_has_a_snapshot(engine: Engine) -> None:
    with engine.begin() as connection:
        assert migrate.upgrade(connection).after == max(SNAPSHOTS)


def test_second_migration_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        migrate.upgrade(connection)
        once = schema(connection)
        connection.execute(text("INSERT INTO counters (name, value) VALUES ('polls', 7)"))
    with engine.begin() as connection:
        migrate.upgrade(connection)
        assert schema(connection) == once
        assert connection.execute(text("SELECT value FROM counters")).scalar_one() == 7


def test_failed_migration_leaves_database_unchanged(engine: Engine) -> None:
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


async def test_store_open_migrates_empty_and_keeps_full_database(tmp_path: Path) -> None:
    for opening in (1, 2):
        store = Store(f"sqlite:///{tmp_path / 'homing.db'}")
        await store.open()
        if opening == 1:
            await store.apply([writing(a_task())])
        assert await store.tasks.get(a_task().id) == a_task()
        await store.close()


def test_newest_file_is_opened_without_importing_alembic(tmp_path: Path) -> None:
    """Alembic takes longer to import than a short command may take."""
    opened = (
        "import asyncio, sys\n"
        "from tracker.storage.store import Store\n"
        "async def main():\n"
        f"    store = Store({sqlite_url(tmp_path)!r})\n"
        "    await store.open()\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
        "print('alembic' in sys.modules)\n"
    )
    ran = subprocess.run((sys.executable, "-c", opened), capture_output=True, text=True, timeout=100, check=True)

    assert ran.stdout == "False\n"


async def test_first_release_file_is_migrated_with_its_data(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'homing.db'}"
    await first_schema.populate(url)
    before = first_schema.rows(url)
    store = Store(url)
    await store.open()
    assert first_schema.kept(before, first_schema.rows(url))
    await first_schema.works(store)
    await store.close()


async def test_first_release_server_is_refused_until_migrated(postgres: Postgres) -> None:
    url = postgres.fresh(migrated=False)
    await first_schema.populate(url)
    before = first_schema.rows(url)
    store = Store(url)
    with pytest.raises(StoreUnavailable, match=r"schema 0001, this version needs \d+\. Run `homing migrate`"):
        await store.open()
    done = await store.migrate()
    assert done.before == "0001"
    assert done.after != "0001"
    await store.open()
    assert first_schema.kept(before, first_schema.rows(url))
    await first_schema.works(store)
    await store.close()


DOUBTS = {
    # id: status, the other reported status, whether the provider was polled, when the next poll is due.
    "open": ("failed", "succeeded", False, None),
    "planned": ("failed", "succeeded", False, 7),
    "decided": ("failed", "succeeded", True, None),
    "agreed": ("failed", "failed", False, None),
    "waiting": ("processing", "failed", False, 7),
}


@pytest.mark.parametrize("database", ["file", "server"])
def test_conflict_dropped_by_older_version_reopens(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'homing.db'}"
    if database == "server":
        url = request.getfixturevalue("postgres").fresh(migrated=False)
    engine = create_engine(url)
    first_schema.add_tasks(engine, DOUBTS)
    with engine.begin() as connection:
        migrate.upgrade(connection, to="0005")
        found = connection.execute(text("SELECT id, conflict_claims, conflict_at, next_poll_at FROM tasks")).all()
    engine.dispose()

    after = {row.id: row for row in found}
    assert after["open"].conflict_claims == after["planned"].conflict_claims == "succeeded"
    assert after["open"].next_poll_at == after["open"].conflict_at > 7
    assert after["planned"].next_poll_at == 7
    assert (after["decided"].conflict_claims, after["agreed"].conflict_claims) == (None, None)
    assert (after["waiting"].conflict_claims, after["waiting"].conflict_at) == ("failed", None)


OLD_NAMES = """
INSERT INTO observations (task_id, dedupe_key, at, source, trust, word, verdict, why, body, repeats)
VALUES ('open', 'a', 1, 'callback', 2, 'succeed', 'moved', '', '', 0),
    ('open', 'callback|hint|ab', 2, 'callback', 0, NULL, 'hinted', '', '', 0);
INSERT INTO alarms (kind, provider, hour, count, last_at, detail) VALUES ('unknown_word', 'kling', 0, 1, 0, '');
INSERT INTO counters (name, value) VALUES ('deliveries', 7), ('hints', 3);
INSERT INTO orphans
    (provider, provider_task_id, client, address, state, why, first_at, last_at, deliveries, checks, signed, body)
VALUES ('kling', '1', 'local', 'standing address 4', 'orphan', '', 1, 1, 1, 0, false, ''),
    ('kling', '2', '', 'task address hm1', 'orphan', '', 2, 2, 1, 0, false, '');
INSERT INTO events (task_id, sequence, type, at, data)
VALUES (NULL, 1, 'homing.alarm.unknown_word', 3, '{"kind":"unknown_word","provider":"kling"}'),
    ('open', 2, 'homing.task.succeeded', 4, '{"status":"succeeded","polls":5,"learned_from":"poll",'
    || '"facts":{"message":{"standing":{"rank":3,"asked":true},"value":"\\"polls\\":"}}}');
"""


@pytest.mark.parametrize("database", ["file", "server"])
def test_values_with_old_names_get_new_names(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'homing.db'}"
    if database == "server":
        url = request.getfixturevalue("postgres").fresh(migrated=False)
    engine = create_engine(url)
    first_schema.add_tasks(engine, {"open": DOUBTS["open"]})
    with engine.begin() as connection:
        migrate.upgrade(connection, to="0009")
        for statement in OLD_NAMES.strip().removesuffix(";").split(";\n"):
            connection.exec_driver_sql(statement)

        migrate.upgrade(connection)

        found = [
            connection.exec_driver_sql(statement).scalars().all()
            for statement in (
                "SELECT verdict FROM observations ORDER BY at",
                "SELECT provider_status FROM observations ORDER BY at",
                "SELECT dedupe_key FROM observations ORDER BY at",
                "SELECT kind FROM alarms",
                "SELECT name FROM counters WHERE value IN (7, 3) ORDER BY name",
                "SELECT type FROM events ORDER BY at",
                "SELECT address FROM orphans ORDER BY first_at",
                "SELECT data FROM events ORDER BY at",
            )
        ]
    engine.dispose()
    assert found[:7] == [
        ["applied", "unverified"],
        ["succeed", None],
        ["a", "callback|unverified|ab"],
        ["unknown_status"],
        ["callbacks", "unverified_callbacks"],
        ["homing.alarm.unknown_status", "homing.task.succeeded"],
        ["shared URL 4", "task hm1"],
    ]
    assert [json.loads(data) for data in found[7]] == [
        {"kind": "unknown_status", "provider": "kling"},
        {
            "status": "succeeded",
            "poll_count": 5,
            "status_source": "poll",
            "facts": {"message": {"precedence": {"rank": 3, "polled": True}, "value": '"polls":'}},
        },
    ]


MADE_BEFORE = """
UPDATE tasks SET kind = 'general/custom-voices', status = 'succeeded', provider_task_id = '7', provider = 'kling',
    client = 'studio',
    facts = '{"assets":[5,false,0,true,[{"kind":"voice","url":"","provider_asset_id":"845"}]]}' WHERE id = 'open';
UPDATE tasks SET kind = 'general/custom-voices', status = 'failed', facts = '{}' WHERE id = 'agreed'
"""


@pytest.mark.parametrize("database", ["file", "server"])
def test_voices_of_earlier_tasks_are_claimed(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'homing.db'}"
    if database == "server":
        url = request.getfixturevalue("postgres").fresh(migrated=False)
    engine = create_engine(url)
    first_schema.add_tasks(engine, {name: DOUBTS[name] for name in ("open", "agreed")})
    with engine.begin() as connection:
        migrate.upgrade(connection, to="0010")
        for statement in MADE_BEFORE.strip().split(";\n"):
            connection.exec_driver_sql(statement)

        migrate.upgrade(connection)

        found = connection.exec_driver_sql(
            "SELECT provider, type, object_id, client, kind, provider_task_id, verified FROM object_claims"
        ).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [("kling", "voice", "845", "studio", "general/custom-voices", "7", False)]
