"""Several processes with one PostgreSQL, each simulated by its own store or tracker: liveness and takeover.

The tests pass a short silence limit instead of waiting. Real processes are in
``tests/crash/test_replicas.py``.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from homing.serve import membership_of
from tests.suites.store_case import read
from tests.support.builders import NOW, a_task, writing
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock
from tests.support.postgres import Postgres
from tracker.app import create_tracker
from tracker.loops.membership import HeartbeatTiming, Membership
from tracker.model.clock import SteeredClock, utc_now
from tracker.model.servers import Heartbeat, Part, Server
from tracker.model.task import Status, Task
from tracker.service.budget import Budget
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store

MARGIN = timedelta(seconds=10)
LEASE = timedelta(minutes=2)
AT_ONCE = timedelta()
LONG = timedelta(hours=1)
QUICK = HeartbeatTiming(heartbeat=timedelta(milliseconds=20), silence=LONG)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


def server(name: str, *parts: Part) -> Server:
    return Server(owner=name, host="here", pid=1, parts=tuple(part.value for part in parts or Part))


async def beat(store: Store, name: str, *, silence: timedelta = LONG) -> Heartbeat:
    return await store.servers.beat(server(name), silence=silence, margin=MARGIN, own=utc_now)


async def report(store: Store, owner: str) -> list[str]:
    found = await store.due_tasks.acquire(now=NOW, limit=100, owner=owner, lease=LEASE)
    return [task.id for task in found]


def due(number: int, **changes: Any) -> Task:
    return a_task(number, status=Status.PROCESSING, provider_task_id=f"p-{number}", next_poll_at=NOW, **changes)


async def test_dead_process_poll_leases_are_freed_at_once(store: Store) -> None:
    await store.apply([writing(due(number)) for number in range(5)])
    await beat(store, "dead")
    assert len(await report(store, "dead")) == 5
    assert await report(store, "survivor") == []
    (taken,) = (await beat(store, "survivor", silence=AT_ONCE)).taken
    assert (taken.server.owner, taken.tasks) == ("dead", 5)
    assert len(await report(store, "survivor")) == 5
    assert [each.owner for each in (await beat(store, "survivor")).alive] == ["survivor"]


async def test_submit_lease_lasts_to_deadline_and_margin(store: Store) -> None:
    until = NOW + timedelta(seconds=14)
    sending = a_task(
        1, attempts=1, attempt_deadline_at=until, lease_owner="dead", lease_until=until + MARGIN, next_poll_at=NOW
    )
    looked_up = a_task(
        2, attempts=1, attempt_deadline_at=NOW - LEASE, lease_owner="dead", lease_until=NOW + LEASE, next_poll_at=NOW
    )
    await store.apply([writing(sending), writing(looked_up)])
    await beat(store, "dead")
    (taken,) = (await beat(store, "survivor", silence=AT_ONCE)).taken
    assert taken.tasks == 1
    assert await report(store, "survivor") == [looked_up.id]
    kept = await store.tasks.get(sending.id)
    assert kept is not None
    assert (kept.lease_owner, kept.lease_until) == ("dead", until + MARGIN)


async def test_one_of_several_survivors_takes_over(store: Store) -> None:
    await store.apply([writing(due(number)) for number in range(40)])
    await beat(store, "dead")
    await report(store, "dead")
    names = [f"survivor {number}" for number in range(4)]
    for name in names:
        await beat(store, name)
    # The survivors do not judge each other: only the stopped process exceeds the silence limit.
    await _silenced(store, "dead")
    beats = await asyncio.gather(*(beat(store, name) for name in names))
    assert sum(taken.tasks for each in beats for taken in each.taken) == 40


async def test_task_being_written_is_freed_later(store: Store, url: str) -> None:
    await store.apply([writing(due(1)), writing(due(2))])
    await beat(store, "dead")
    await report(store, "dead")
    with psycopg.connect(url) as writer:
        writer.execute("SELECT id FROM tasks WHERE id = %s FOR UPDATE", [due(1).id])
        (taken,) = (await beat(store, "survivor", silence=AT_ONCE)).taken
        assert taken.tasks == 1
        # The dead process keeps its row as long as it holds a lease.
        assert len(await store.servers.alive(silence=LONG)) == 2
    (rest,) = (await beat(store, "survivor", silence=AT_ONCE)).taken
    assert rest.tasks == 1
    assert len(await store.servers.alive(silence=LONG)) == 1
    assert len(await report(store, "survivor")) == 2


async def test_paused_process_returns_on_next_heartbeat(store: Store) -> None:
    await beat(store, "paused")
    await beat(store, "other", silence=AT_ONCE)
    assert [each.owner for each in await store.servers.alive(silence=LONG)] == ["other"]
    back = await beat(store, "paused")
    assert {each.owner for each in back.alive} == {"other", "paused"}
    assert back.taken == ()


async def test_late_heartbeat_marks_process_alive(store: Store) -> None:
    await beat(store, "late")
    await _silenced(store, "late")
    await beat(store, "late")
    other = await beat(store, "other")
    assert other.taken == ()
    assert {each.owner for each in other.alive} == {"late", "other"}


async def test_stopping_process_releases_poll_leases(store: Store) -> None:
    await store.apply([writing(due(1))])
    await beat(store, "leaving")
    await report(store, "leaving")
    await store.servers.leave("leaving", margin=MARGIN)
    assert await report(store, "other") == [due(1).id]
    assert (await beat(store, "other", silence=AT_ONCE)).taken == ()


async def test_process_with_wrong_clock_is_not_dead(store: Store) -> None:
    wrong = Clock(datetime.now(UTC) - timedelta(days=1))
    answer = await store.servers.beat(server("wrong"), silence=LONG, margin=MARGIN, own=wrong)
    assert timedelta(hours=23) < answer.reading.ahead < timedelta(hours=25)
    right = await beat(store, "right")
    assert right.taken == ()
    assert abs(right.reading.ahead) < timedelta(hours=1)
    assert {each.owner for each in right.alive} == {"wrong", "right"}


@asynccontextmanager
async def member(
    url: str,
    *,
    parts: frozenset[Part] = frozenset(Part),
    clock: SteeredClock | None = None,
    heartbeat_timing: HeartbeatTiming = QUICK,
) -> AsyncIterator[tuple[Tracker, Membership]]:
    clock = clock or SteeredClock()
    tracker = create_tracker(Settings(database_url=url), clock=clock)
    async with tracker, membership_of(tracker, clock, parts=parts, heartbeat_timing=heartbeat_timing) as membership:
        yield tracker, membership


async def test_processes_with_loops_share_the_budget(url: str) -> None:
    async with AsyncExitStack() as stack:
        _, first = await stack.enter_async_context(member(url))
        assert first.share() == 1.0
        await stack.enter_async_context(member(url, parts=frozenset({Part.RECEIVER, Part.API})))
        async with member(url, parts=frozenset({Part.LOOPS})) as (_, second):
            assert second.share() == 0.5
            await _until(lambda: first.share() == 0.5)
        await _until(lambda: first.share() == 1.0)
    assert read(url, "SELECT count(*) FROM servers") == [(0,)]


def test_budget_follows_share_of_process() -> None:
    share = 0.5
    budget = Budget(1200, NOW, share=lambda: share)

    def taken(minute: int) -> int:
        return sum(budget.take(NOW + timedelta(minutes=minute, milliseconds=at)) is None for at in range(0, 60_000, 20))

    # The initial burst adds to the first minute.
    assert taken(0) == pytest.approx(600 + 150, abs=2)
    assert taken(1) == pytest.approx(600, abs=2)
    share = 1.0
    assert taken(2) == pytest.approx(1200, abs=2)
    share = 0.25
    assert taken(3) == pytest.approx(300, abs=2)


async def test_replicas_with_wrong_clocks_use_database_time(url: str) -> None:
    async with AsyncExitStack() as stack:
        now = []
        for hours in (-7, 5):
            own = Clock(datetime.now(UTC) + timedelta(hours=hours))
            tracker, _ = await stack.enter_async_context(member(url, clock=SteeredClock(own)))
            now.append(tracker.clock())
    assert all(abs(each - datetime.now(UTC)) < timedelta(minutes=5) for each in now)


async def test_sqlite_writes_no_heartbeat_and_takes_old_leases(url: str, tmp_path: Any) -> None:
    del url
    file = sqlite_url(tmp_path)
    store = Store(file)
    await store.open()
    await store.apply([writing(due(1))])
    await report(store, "killed")
    await store.close()
    async with member(file) as (tracker, membership):
        assert membership.share() == 1.0
        assert await report(tracker.store, "now") == [due(1).id]
    assert read(file, "SELECT count(*) FROM servers") == [(0,)]


async def test_heartbeat_survives_database_outage(
    postgres: Postgres, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with member(url) as (tracker, _):
        with away(postgres, url):
            await _until(lambda: "cannot be written" in caplog.text)
        await _until(lambda: "works again" in caplog.text)
        assert [each.owner for each in await tracker.store.servers.alive(silence=LONG)] == [tracker.owner]
    lines = [record.getMessage() for record in caplog.records if record.name == "homing.membership"]
    assert len(lines) == 2, lines
    assert "the database" in lines[0]


@contextmanager
def away(postgres: Postgres, url: str) -> Iterator[None]:
    """Make one database unreachable for the duration of the context."""
    name = url.removeprefix("postgresql://postgres@/").partition("?")[0]
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


async def _silenced(store: Store, name: str) -> None:
    """Make the last heartbeat of a process one day old."""
    with psycopg.connect(store.name, autocommit=True) as connection:
        connection.execute("UPDATE servers SET seen_at = seen_at - 86400000000 WHERE owner = %s", [name])


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a loop of its own
            await asyncio.sleep(0.01)
