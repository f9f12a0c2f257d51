"""A database as the first release left it: its schema, and rows in every table that had some."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, insert, select

from tests.suites.store_case import alarm
from tests.support.builders import NOW, Deciding, a_task, an_entry, an_event, an_orphan, writing
from tracker.model.changes import Change, Known, by_id
from tracker.model.records import TaskFilter
from tracker.model.task import Status, Task
from tracker.storage import migrate, schema_revision
from tracker.storage.store import Store

TASK = a_task(1, provider_task_id="p-1", external_id="order-1", tags=("a",), request={"prompt": "ä"})

Rows = Sequence[dict[str, Any]]
COLUMNS = importlib.import_module("tracker.storage.migrations.versions.0010_plain_names").COLUMNS


def renamed(table: str, column: str) -> str:
    """Return the present name of a column of the first schema."""
    # This one was renamed twice.
    column = "conflict_statuses" if column == "doubt" else column
    name: str = COLUMNS.get(table, {}).get(column, column)
    return name


def _everything(_: Known) -> Change[Task]:
    return Change(
        result=TASK,
        task=TASK,
        submission=b'{"prompt": "a"}',
        entries=(an_entry(TASK, "key-1"),),
        events=(an_event(TASK, 2),),
        alarms=(alarm(),),
        orphan=an_orphan(),
    )


async def populate(url: str) -> None:
    """Make the first schema in an empty database, and fill it."""
    with TemporaryDirectory() as folder:
        newest = f"sqlite:///{Path(folder) / 'newest.db'}"
        store = Store(newest)
        await store.open()
        await store.apply([Deciding(keys=frozenset({by_id(TASK.id)}), decide=_everything)])
        await store.close()
        engine = create_engine(url)
        with engine.begin() as connection:
            migrate.upgrade(connection, to="0001")
        engine.dispose()
        written = rows(newest)
        # That release published no alarm events.
        written["events"] = [row for row in written["events"] if row["task_id"] is not None]
        _copy(url, written)


def rows(url: str) -> dict[str, Rows]:
    """Return the rows of each table."""
    engine = create_engine(url)
    found = MetaData()
    found.reflect(engine)
    with engine.connect() as connection:
        tables: dict[str, Rows] = {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in found.sorted_tables
        }
    engine.dispose()
    return tables


def kept(before: dict[str, Rows], after: dict[str, Rows]) -> bool:
    """Return whether every row of before is still there, in the columns that there were."""
    del before[schema_revision.VERSION_TABLE]
    return all(
        [{column: row[renamed(name, column)] for column in was} for was, row in zip(table, after[name], strict=True)]
        == list(table)
        for name, table in before.items()
    )


def add_tasks(engine: Engine, doubts: dict[str, tuple[str, str, bool, int | None]]) -> None:
    """Create the first schema, with one task for each of several conflicting final reports."""
    with engine.begin() as connection:
        migrate.upgrade(connection, to="0001")
        found = MetaData()
        found.reflect(connection)
        tasks = found.tables["tasks"]
        plain = {
            column.name: 0 if column.type.python_type is int else "" for column in tasks.columns if not column.nullable
        }
        for name, (status, doubt, polled, due) in doubts.items():
            values = {
                "id": name,
                "status": status,
                "doubt": doubt,
                "standing_asked": polled,
                "next_poll_at": due,
            }
            flags = {"callback_asked": False, "released": False, "request": "{}", "tags": "[]", "facts": "{}"}
            connection.execute(insert(tasks).values(plain | flags | values))


async def works(store: Store) -> None:
    """Find all of it again in the ways of today, and go on with it."""
    for ref in (TASK.id, "p-1", "order-1"):
        assert await store.tasks.find_ref(ref, client="studio") == TASK
    for task_filter in (TaskFilter(), TaskFilter(tag="a"), TaskFilter(client="studio", statuses=(TASK.status,))):
        assert (await store.task_pages.page(task_filter, limit=2, cursor=None)).tasks == (TASK,)
    assert [entry.body for entry in await store.tasks.history(TASK.id)] == [b"{}"]
    assert await store.tasks.submission(TASK.id) == b'{"prompt": "a"}'
    assert [orphan.id for orphan in await store.orphans.due(now=NOW, limit=2)] == [1]
    stats = await store.stats(client=None, now=NOW)
    assert (stats.by_status, stats.orphans, len(stats.alarms)) == ({"pending": 1}, {"waiting": 1}, 1)
    ended = replace(TASK, status=Status.FAILED, finished_at=NOW, model="kling-v3-omni")
    again = (an_entry(TASK, "key-1"), an_entry(TASK, "key-2"))
    await store.apply([writing(ended, entries=again, events=(an_event(TASK, 3),))])
    assert [entry.repeats for entry in await store.tasks.history(TASK.id)] == [1, 0]
    assert (await store.retention.delete_old(until=NOW, now=NOW, after=None, limit=2)).tasks == 1
    assert await store.retention.deleted_task("kling", "default", "p-1") == TASK.id


def _copy(url: str, tables: dict[str, Rows]) -> None:
    """Write rows into the tables and columns that are there; the database numbers them, as it did."""
    engine = create_engine(url)
    found = MetaData()
    found.reflect(engine)
    with engine.begin() as connection:
        for table in found.sorted_tables:
            for row in tables[table.name] if table.name != schema_revision.VERSION_TABLE else ():
                values = {column.name: row[renamed(table.name, column.name)] for column in table.columns}
                if isinstance(values.get("id"), int):
                    del values["id"]
                connection.execute(insert(table).values(values))
    engine.dispose()
