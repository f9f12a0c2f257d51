"""Two replicas write to one PostgreSQL at once: no collision reaches a caller, and no event is skipped by a reader."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import psycopg
import psycopg.sql
import pytest
from sqlalchemy import Connection, text

from tests.suites.store_case import LEASE, alarm, read
from tests.support.builders import NOW, Deciding, a_report, a_task, an_entry, an_event, by_callback, writing
from tests.support.event_reader import reading_events
from tests.support.failing_stores import DawdlingStore
from tests.support.fakes import Clock, FakeKling, Made
from tests.support.homing_server import ANYBODY, CAT, KIND
from tests.support.postgres import Postgres
from tracker.app import create_tracker
from tracker.errors import Conflict
from tracker.model.changes import Change, Key, Known, Work, by_external_id, by_id, by_provider_id, by_sent_id
from tracker.model.records import Arrived
from tracker.model.task import ClientIdentity, Expected, Recorded, Status, Task, Trust, Verdict, changed
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store

ROUNDS = 40
TASKS = 24


@pytest.fixture
def url(postgres: Postgres) -> str:
    """Create a database whose default isolation level differs from the one that Homing needs."""
    url = postgres.fresh()
    with psycopg.connect(url, autocommit=True) as connection:
        name = psycopg.sql.Identifier(connection.info.dbname)
        stricter = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'")
        connection.execute(stricter.format(name))
    return url


@pytest.fixture
async def stores(url: str) -> AsyncIterator[tuple[Store, Store]]:
    both = Store(url), Store(url)
    for store in both:
        await store.open()
    yield both
    for store in both:
        await store.close()


@asynccontextmanager
async def opened(url: str, provider: FakeKling) -> AsyncIterator[Tracker]:
    settings = Settings(database_url=url, kling_base_url="http://127.0.0.1:9", kling_api_key="made-up-key")
    async with create_tracker(settings, transport=provider) as tracker:
        yield tracker


@pytest.fixture
async def replicas(url: str) -> AsyncIterator[tuple[Tracker, Tracker, FakeKling]]:
    provider = FakeKling(clock=Clock(datetime.now(UTC)))
    async with opened(url, provider) as one, opened(url, provider) as two:
        yield one, two, provider


def deadlocks(url: str) -> int:
    """Return how often the server had to break one up; it waits a second before each."""
    ((count,),) = read(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(count)


async def at_once(*pieces: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*pieces, return_exceptions=True)


def names_of(task: Task) -> list[Key]:
    assert task.provider_task_id is not None
    assert task.external_id is not None
    return [
        by_id(task.id),
        by_provider_id(task.provider, task.account, task.provider_task_id),
        by_sent_id(task.provider, task.account, task.id),
        by_external_id(task.client, task.external_id),
    ]


def counting(key: Key) -> Work[int]:
    """Return a change that finds a task by one of its IDs, increments its row, and writes to every table."""

    def decide(known: Known) -> Change[int]:
        row = known.get(key)
        assert row is not None
        after = changed(row, version=row.version + 1)
        return Change(
            result=after.version,
            task=after,
            entries=(an_entry(after, str(after.version)), an_entry(after, "the same")),
            events=(an_event(after, after.version),),
            alarms=(alarm(NOW, provider=f"p{after.id[-1]}"),),
            counts={"polls": 1, f"of {after.id[-1]}": 1},
        )

    return Deciding(keys=frozenset({key}), decide=decide)


async def test_overlapping_batches_wait_and_lose_nothing(url: str, stores: tuple[Store, Store]) -> None:
    chance = Random(1)
    tasks = [a_task(n, provider_task_id=f"p-{n}", external_id=f"x-{n}") for n in range(1, TASKS + 1)]
    await stores[0].apply([writing(task) for task in tasks])
    with reading_events(url) as follower:
        for _ in range(ROUNDS):
            there = [counting(chance.choice(names_of(task))) for task in tasks]
            back = [counting(chance.choice(names_of(task))) for task in reversed(tasks)]
            some = [counting(chance.choice(names_of(task))) for task in chance.sample(tasks, TASKS // 2)]
            batches = [(stores[0], there), (stores[1], back), (stores[0], some), (stores[1], [*some, *some])]
            done = await at_once(*(store.apply(works) for store, works in batches))
            assert [type(results) for results in done] == [list] * 4, done
    sequences = read(
        url, "SELECT task_id, max(sequence), count(*) FROM events WHERE task_id IS NOT NULL GROUP BY task_id"
    )
    expected = ROUNDS * (2 * TASKS + 3 * (TASKS // 2))
    assert sum(count for *_, count in sequences) == expected
    for task in tasks:
        row = await stores[0].tasks.get(task.id)
        assert row is not None
        assert (task.id, row.version, row.version - 1) in sequences
    stats = await stores[1].stats(client=None, now=NOW)
    assert (stats.polls, sum(one.count for one in stats.alarms), stats.duplicate_callbacks) == (
        expected,
        expected,
        expected - TASKS,
    )
    assert follower.seen == [number for (number,) in read(url, "SELECT id FROM events ORDER BY id")]
    assert deadlocks(url) == 0


async def test_cursor_reader_never_skips_a_late_commit(url: str) -> None:
    stores = DawdlingStore(url, seconds=0.01), DawdlingStore(url, seconds=0.01)
    for store in stores:
        await store.open()
    tasks = [a_task(n) for n in range(1, TASKS + 1)]
    await stores[0].apply([writing(task) for task in tasks])

    async def write(store: Store, mine: list[Task]) -> None:
        for sequence in range(2, 2 + ROUNDS):
            await store.apply([writing(task, events=(an_event(task, sequence),)) for task in mine])

    # No batch waits for rows of another one: they share only the commit order.
    with reading_events(url, pause=0) as follower:
        await asyncio.gather(*(write(stores[n % 2], tasks[sum(range(n)) : sum(range(n + 1))]) for n in range(1, 7)))
    for store in stores:
        await store.close()
    assert follower.seen == [number for (number,) in read(url, "SELECT id FROM events ORDER BY id")]
    assert len(follower.seen) == ROUNDS * sum(range(1, 7))


class OpenBook(Store):
    """A store that may be read in any way."""

    async def look(self, transaction: Callable[[Connection], list[int]]) -> list[int]:
        return await self._database.read(transaction)


async def test_reader_sees_one_view_during_commits(url: str, stores: tuple[Store, Store]) -> None:
    loop = asyncio.get_running_loop()
    book = OpenBook(url)
    await book.open()

    def seen_twice(connection: Connection) -> list[int]:
        seen = [connection.execute(text("SELECT count(*) FROM tasks")).scalar_one()]
        asyncio.run_coroutine_threadsafe(stores[1].apply([writing(a_task())]), loop).result()
        return [*seen, connection.execute(text("SELECT count(*) FROM tasks")).scalar_one()]

    assert await book.look(seen_twice) == [0, 0]
    await book.close()
    assert read(url, "SELECT count(*) FROM tasks") == [(1,)]


async def test_concurrent_leases_give_each_due_task_to_one(url: str, stores: tuple[Store, Store]) -> None:
    tasks = [a_task(n, next_poll_at=NOW, provider_task_id=f"p-{n}", external_id=f"x-{n}") for n in range(1, 101)]
    await stores[0].apply([writing(task) for task in tasks])
    leased: list[str] = []

    async def report(store: Store, owner: str) -> None:
        while found := await store.due_tasks.acquire(now=NOW, limit=7, owner=owner, lease=LEASE):
            leased.extend(task.id for task in found)

    async def write(store: Store) -> None:
        for start in range(0, 100, 10):
            await store.apply([counting(by_id(task.id)) for task in tasks[start : start + 10]])

    await asyncio.gather(
        *(report(store, f"{n}") for n, store in enumerate(stores * 2)), *(write(store) for store in stores)
    )
    # The next round takes the rows that a writer had locked.
    await report(stores[0], "last")
    assert sorted(leased) == [task.id for task in tasks]
    for task in tasks:
        row = await stores[0].tasks.get(task.id)
        assert row is not None
        assert (row.version, row.lease_until) == (3, NOW + LEASE)
    assert deadlocks(url) == 0


@pytest.mark.parametrize("name", ["Idempotency-Key", "external id", "both"])
async def test_same_submission_at_both_creates_one_task(
    replicas: tuple[Tracker, Tracker, FakeKling], url: str, name: str
) -> None:
    one, two, provider = replicas
    for n in range(ROUNDS // 2):
        body = CAT | ({} if name == "Idempotency-Key" else {"external_task_id": f"x-{n}"})
        key = None if name == "external id" else f"key-{n}"
        order = one.order("kling", KIND, body)
        tasks = await at_once(
            *(tracker.submit(ANYBODY, "kling", order, idempotency_key=key) for tracker in (one, two, one, two))
        )
        assert len({task.id for task in tasks}) == 1, tasks
    assert len(provider.ledger) == ROUNDS // 2
    assert read(url, "SELECT count(*) FROM tasks") == [(ROUNDS // 2,)]


async def test_same_key_with_another_body_is_refused(
    replicas: tuple[Tracker, Tracker, FakeKling],
) -> None:
    one, two, provider = replicas
    orders = [one.order("kling", KIND, CAT | {"prompt": prompt}) for prompt in ("a cat", "a dog")]
    for n in range(ROUNDS // 2):
        results = await at_once(
            *(
                tracker.submit(ANYBODY, "kling", order, idempotency_key=f"key-{n}")
                for tracker, order in zip((one, two), orders, strict=True)
            )
        )
        assert sorted(type(each).__name__ for each in results) == ["Conflict", "Task"], results
    assert len(provider.ledger) == ROUNDS // 2


@pytest.mark.parametrize(
    "other", [ANYBODY, ClientIdentity(name="another client")], ids=["its client", "another client"]
)
async def test_same_expected_task_at_both_is_recorded_once(
    replicas: tuple[Tracker, Tracker, FakeKling], other: ClientIdentity
) -> None:
    clients = zip(replicas[:2], (ANYBODY, other), strict=True)
    calls = [partial(each.expect, client, provider="kling", kind=KIND) for each, client in clients]
    for n in range(ROUNDS):
        found = await at_once(*(call(external_id=f"x-{n}") for call in calls))
        assert {type(each) for each in found} == {Expected, Conflict}, found


async def test_provider_id_belongs_to_one_of_two_tasks(replicas: tuple[Tracker, Tracker, FakeKling]) -> None:
    one, two, provider = replicas
    for n in range(ROUNDS // 2):
        provider.ledger.append(Made(id=f"p-{n}", external_id=f"x-{n}", prompt="a cat", made_at=provider.clock()))
        tasks = [(await one.expect(ANYBODY, provider="kling", kind=KIND)).task for _ in range(2)]
        await at_once(*(each.attach(ANYBODY, task.id, f"p-{n}") for each, task in zip((one, two), tasks, strict=True)))
        held = [(await one.get(ANYBODY, task.id)).provider_task_id for task in tasks]
        assert sorted(held, key=str) == [None, f"p-{n}"], held


async def test_task_found_by_both_is_adopted_once(replicas: tuple[Tracker, Tracker, FakeKling], url: str) -> None:
    one, two, provider = replicas
    for n in range(ROUNDS // 2):
        provider.ledger.append(Made(id=f"p-{n}", external_id=f"x-{n}", prompt="a cat", made_at=provider.clock()))
        found = await at_once(
            *(each.adopt(ANYBODY, provider="kling", kind=KIND, provider_task_id=f"p-{n}") for each in (one, two))
        )
        assert {type(each) for each in found} == {Task}, found
        assert len({each.id for each in found}) == 1
    assert read(url, "SELECT count(*) FROM tasks") == [(ROUNDS // 2,)]


async def test_secret_created_by_both_is_the_same(stores: tuple[Store, Store]) -> None:
    for n in range(ROUNDS):
        kept = await at_once(*(each.secrets.get(f"s-{n}", bytes([at])) for at, each in enumerate(stores)))
        assert kept in ([b"\0"] * 2, [b"\1"] * 2)


async def test_same_callbacks_at_both_are_recorded_once(replicas: tuple[Tracker, Tracker, FakeKling], url: str) -> None:
    one, two, _ = replicas
    expected = [
        (await one.expect(ANYBODY, provider="kling", kind=KIND, external_id=f"x-{n}")).task for n in range(TASKS)
    ]
    statuses = (Status.PROCESSING, Status.FAILED, Status.SUCCEEDED)

    def arrived(task: Task, status: Status) -> Arrived:
        report = a_report(
            status,
            provider_task_id=f"p-{task.id}",
            external_id=task.external_id,
            updated_at=NOW + timedelta(seconds=statuses.index(status)),
        )
        observation = by_callback(report, Trust.SIGNED, webhook_id=f"{task.id}-{status}", body=status.encode())
        return Arrived(provider="kling", observation=observation, task_id=task.id)

    deliveries = [arrived(task, status) for task in expected for status in statuses]
    with reading_events(url) as follower:
        for seed in range(4):
            chance = Random(seed)
            orders = [(tracker, chance.sample(deliveries, len(deliveries))) for tracker in (one, two)]
            done = await at_once(*(tracker.record(each) for tracker, order in orders for each in order))
            assert {type(each) for each in done} == {Recorded}, done
    kept = read(url, "SELECT task_id, dedupe_key, repeats FROM observations WHERE source = 'callback'")
    assert len({row[:2] for row in kept}) == len(kept) == len(deliveries)
    assert {repeats for *_, repeats in kept} == {7}
    transitions = read(
        url, f"SELECT count(*) FROM observations WHERE verdict IN ('{Verdict.APPLIED}', '{Verdict.COMPLETED}')"
    )
    events = read(url, "SELECT id, task_id, sequence FROM events ORDER BY id")
    assert transitions == [(sum(task_id is not None for _, task_id, _ in events),)]
    assert follower.seen == [number for number, *_ in events]
    for task in expected:
        row = await two.get(ANYBODY, task.id)
        assert row.status is Status.SUCCEEDED
        assert [sequence for _, task_id, sequence in events if task_id == task.id] == list(range(2, row.version + 1))
    assert deadlocks(url) == 0
