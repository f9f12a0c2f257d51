"""Test two batches in flight to PostgreSQL from one process: lost connections, errors and canceled callers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest

from tests.suites.store_case import read
from tests.support.builders import Deciding, a_task, an_entry, an_event, writing
from tests.support.conditions import until
from tests.support.database_proxy import DatabaseProxy, database_proxy
from tests.support.postgres import Postgres
from tracker.errors import CommitUnknown
from tracker.model.changes import Change, Known, Work, by_id
from tracker.model.task import Task, changed
from tracker.storage.engine import event_order
from tracker.storage.engine.pipeline import STATEMENTS
from tracker.storage.engine.postgres import BATCHES
from tracker.storage.store import Store

TASK = a_task(1)
OTHER = a_task(2)
MIB = 1 << 20


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store that knows two tasks and has all of its connections."""
    store = Store(url)
    await store.open()
    try:
        await store.apply([writing(TASK), writing(OTHER)])
        await asyncio.gather(*(store.apply([writing(counts={"poll_count": 1})]) for _ in range(2 * BATCHES)))
        yield store
    finally:
        await store.close()


@contextmanager
def holding(url: str, statement: str) -> Iterator[psycopg.Connection]:
    """Hold the locks of a statement until the yielded connection is rolled back."""
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
        yield connection
        connection.rollback()


ORDER = f"SELECT pg_advisory_xact_lock({event_order.ORDER})"


async def waiting(url: str, count: int) -> None:
    """Wait until ``count`` Homing transactions wait for a lock."""

    async def there() -> bool:
        blocked = f"SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {OURS}"
        return len(read(url, blocked)) == count

    await until(there)


OURS = "application_name = 'homing' AND datname = current_database()"
END = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}"


class Counting:
    """Create changes that increment a task's row and publish it; ``decided`` has the versions in decision order."""

    def __init__(self) -> None:
        self.decided: list[int] = []

    def __call__(self, task: Task = TASK) -> Work[int]:
        def decide(known: Known) -> Change[int]:
            row = known.get(by_id(task.id))
            assert row is not None
            after = changed(row, version=row.version + 1)
            self.decided.append(after.version)
            return Change(result=after.version, task=after, events=(an_event(after, after.version),))

        return Deciding(keys=frozenset({by_id(task.id)}), decide=decide)


async def test_batches_of_one_task_keep_arrival_order(url: str) -> None:
    counting = Counting()
    async with opened(url) as store:
        with holding(url, f"SELECT 1 FROM tasks WHERE id = '{TASK.id}' FOR UPDATE"):
            batches = [asyncio.create_task(store.apply([counting()])) for _ in range(3)]
            await waiting(url, 1)
            assert counting.decided == []
        assert await asyncio.gather(*batches) == [[2], [3], [4]]
    assert counting.decided == [2, 3, 4]
    assert read(url, "SELECT sequence FROM events ORDER BY id") == [(2,), (3,), (4,)]


async def test_batch_is_decided_during_another_commit(url: str) -> None:
    counting = Counting()
    async with opened(url) as store:
        with holding(url, ORDER):
            batches = [asyncio.create_task(store.apply([counting(task)])) for task in (TASK, OTHER, TASK)]
            await waiting(url, BATCHES)
            assert counting.decided == [2, 2]
            assert not any(batch.done() for batch in batches)
        assert await asyncio.gather(*batches) == [[2], [2], [3]]
    assert len(read(url, "SELECT id FROM events")) == 3


async def test_closed_connections_are_replaced(url: str) -> None:
    async with opened(url) as store:
        read(url, END)
        # In any order: one that is run again begins anew.
        assert sorted(await asyncio.gather(*(store.apply([Counting()()]) for _ in range(3)))) == [[2], [3], [4]]


@pytest.mark.parametrize("when", ["reading", "writing"])
async def test_batch_reruns_if_server_disconnects_before_commit(url: str, when: str) -> None:
    counting = Counting()
    async with opened(url) as store:
        with holding(url, ORDER if when == "writing" else f"SELECT 1 FROM tasks WHERE id = '{TASK.id}' FOR UPDATE"):
            batch = asyncio.create_task(store.apply([counting()]))
            await waiting(url, 1)
            read(url, f"{END} AND wait_event_type = 'Lock'")
            await waiting(url, 1)
        assert await batch == [2]
    assert counting.decided == ([2, 2] if when == "writing" else [2])
    assert read(url, "SELECT sequence FROM events") == [(2,)]


@asynccontextmanager
async def through(url: str) -> AsyncIterator[tuple[Store, DatabaseProxy]]:
    socket = url.rpartition("=")[2]
    name = url.rpartition("?")[0].rpartition("/")[2]
    async with (
        database_proxy(f"{socket}/.s.PGSQL.5432") as line,
        opened(f"postgresql://postgres@127.0.0.1:{line.port}/{name}") as store,
    ):
        yield store, line


async def test_batch_with_lost_commit_answer_is_not_rerun(url: str) -> None:
    counting = Counting()
    async with through(url) as (store, line):
        with holding(url, ORDER):
            batches = [asyncio.create_task(store.apply([counting(task)])) for task in (TASK, OTHER)]
            await waiting(url, 2)
            line.cut()
            answers = await asyncio.gather(*batches, return_exceptions=True)
            assert [type(answer) for answer in answers] == [CommitUnknown] * 2
            assert counting.decided == [2, 2]
        # Whether the server still did it is for the sender to find out.
        assert await store.apply([counting()]) in ([2], [3])


async def test_batch_reruns_if_connection_fails_before_commit(url: str) -> None:
    counting = Counting()
    async with through(url) as (store, line):
        with holding(url, f"SELECT 1 FROM tasks WHERE id = '{TASK.id}' FOR UPDATE") as holder:
            batch = asyncio.create_task(store.apply([counting()]))
            await waiting(url, 1)
            line.cut()
            holder.rollback()
        assert await batch == [2]
    assert counting.decided == [2]


async def test_started_batch_commits_without_a_waiter(url: str) -> None:
    counting = Counting()
    async with opened(url) as store:
        with holding(url, ORDER):
            batch = asyncio.create_task(store.apply([counting()]))
            await waiting(url, 1)
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            assert not closing.done()
        await closing
    assert read(url, "SELECT sequence FROM events") == [(2,)]


async def test_failed_decision_releases_rows_and_connection(url: str) -> None:
    def broken(_: Known) -> Change[None]:
        raise RuntimeError("a bug")

    async with opened(url) as store:
        for _ in range(2 * BATCHES):
            with pytest.raises(RuntimeError):
                await store.apply([Counting()(), Deciding(keys=frozenset({by_id(OTHER.id)}), decide=broken)])
        assert await store.apply([Counting()()]) == [2]
        assert len(read(url, f"SELECT pid FROM pg_stat_activity WHERE {OURS} AND state <> 'active'")) <= BATCHES + 2


async def test_batch_larger_than_buffer_is_sent_in_parts(url: str) -> None:
    tasks = [a_task(n, request={"prompt": "x" * MIB}) for n in range(10, 26)]
    async with opened(url) as store:
        kept = (an_entry(task, "large", body=bytes(MIB)) for task in tasks)
        await store.apply([writing(task, entries=(entry,)) for task, entry in zip(tasks, kept, strict=True)])
        # Larger answers than any buffer too.
        assert await store.apply([Counting()(task) for task in tasks]) == [2] * len(tasks)
    assert read(url, "SELECT count(*), sum(length(body)) FROM observations") == [(len(tasks), len(tasks) * MIB)]


async def test_connection_with_many_statements_is_replaced(url: str) -> None:
    # Each set of columns that a batch changes is a statement of its own.
    columns = (
        "poll_count",
        "quiet_polls",
        "attempts",
        "not_found",
        "version",
        "reason",
        "model",
        "lease_owner",
        "taken_by",
    )
    row = TASK
    async with opened(url) as store:
        before = read(url, f"SELECT pid FROM pg_stat_activity WHERE {OURS}")
        for number in range(1, STATEMENTS + 100):
            some = {name: 1 for place, name in enumerate(columns) if number >> place & 1}
            row = changed(row, **{name: number if name in columns[:5] else f"{number}" for name in some})
            await store.apply([writing(row)])
        assert await store.tasks.get(TASK.id) == row
        assert set(read(url, f"SELECT pid FROM pg_stat_activity WHERE {OURS}")) != set(before)
