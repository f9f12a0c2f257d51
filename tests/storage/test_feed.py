"""Test the feed over real databases: each event once, in order, without one query per waiter."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.builders import a_task, an_event, writing
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.model.event import Found
from tracker.model.task import Task
from tracker.rules.schedule import Policy
from tracker.service.feed import KEPT, PAGE, Feed
from tracker.storage.engine.notices import CHANNEL
from tracker.storage.store import Store

SCAN_INTERVAL = Policy().feed_scan_interval
LONG = timedelta(seconds=60)
SHORT = timedelta(milliseconds=1)
TASK = a_task()


class CountedEvents:
    """The store's events. It counts the reads."""

    def __init__(self, store: Store) -> None:
        self._events = store.events
        self.reads = 0
        self.was_read = asyncio.Event()

    async def read(self, *, after: int, limit: int) -> Sequence[Found]:
        self.reads += 1
        self.was_read.set()
        return await self._events.read(after=after, limit=limit)

    async def latest(self) -> int:
        return await self._events.latest()

    async def highest_number(self) -> int:
        return await self._events.highest_number()

    async def horizon(self) -> int:
        return await self._events.horizon()


async def add_events(store: Store, task: Task = TASK, *sequences: int) -> None:
    await store.apply([writing(task, events=tuple(an_event(task, sequence) for sequence in sequences))])


async def follow(feed: Feed, after: int, count: int) -> list[tuple[int, int]]:
    """Read ``count`` events like a subscriber. Return the cursor and the sequence of each."""
    seen: list[tuple[int, int]] = []
    while len(seen) < count:
        await feed.beyond(after, within=LONG)
        for event in await feed.read(after):
            seen.append((event.cursor, event.sequence))
            after = event.cursor
    return seen


@asynccontextmanager
async def opened(feed: Feed) -> AsyncIterator[Feed]:
    await feed.open()
    try:
        yield feed
    finally:
        await feed.close()


@pytest.fixture
async def feed(store: Store) -> AsyncIterator[Feed]:
    async with opened(Feed(store.events, notices=store.notices, scan_interval=SCAN_INTERVAL)) as feed:
        yield feed


async def test_subscriber_sees_each_event_once_in_order(store: Store, feed: Feed) -> None:
    subscribers = [asyncio.create_task(follow(feed, 0, 300)) for _ in range(3)]
    for first in range(2, 302, 10):
        await add_events(store, TASK, *range(first, first + 10))
        feed.signal_commit()
    for seen in await asyncio.gather(*subscribers):
        assert [sequence for _, sequence in seen] == list(range(2, 302))
        assert [cursor for cursor, _ in seen] == sorted({cursor for cursor, _ in seen})


async def test_subscriber_with_old_cursor_reads_database(store: Store, feed: Feed) -> None:
    await add_events(store, TASK, *range(2, 2 + PAGE + 20))
    assert len(await follow(feed, 0, PAGE + 20)) == PAGE + 20
    assert [sequence for _, sequence in await follow(feed, 5, 3)][:3] == [7, 8, 9]


async def test_commit_without_notification_is_still_seen(store: Store, feed: Feed) -> None:
    waiting = asyncio.create_task(feed.beyond(0, within=LONG))
    await asyncio.sleep(0)
    await add_events(store, TASK, 2)
    assert await waiting


async def test_feed_wait_ends_at_its_timeout(feed: Feed) -> None:
    assert not await feed.beyond(0, within=SHORT)


async def test_task_watcher_wakes_for_its_task_only(store: Store, feed: Feed) -> None:
    other = a_task(2)
    async with feed.watching(TASK.id) as mine, feed.watching(other.id) as theirs:
        await add_events(store, TASK, 2)
        feed.signal_commit()
        await asyncio.wait_for(mine.wait(), LONG.total_seconds())
        assert not theirs.is_set()


async def test_feed_reads_once_for_a_thousand_waiters(store: Store) -> None:
    events = CountedEvents(store)
    async with opened(Feed(events, scan_interval=SCAN_INTERVAL)) as feed:
        waiting = [asyncio.create_task(feed.beyond(0, within=LONG)) for _ in range(1000)]
        await asyncio.sleep(0)
        await asyncio.wait_for(events.was_read.wait(), LONG.total_seconds())
        reads = events.reads

        await add_events(store, TASK, 2)
        feed.signal_commit()

        assert all(await asyncio.gather(*waiting))
        assert events.reads <= reads + 2


async def test_feed_without_waiters_reads_nothing(store: Store) -> None:
    events = CountedEvents(store)
    async with opened(Feed(events, scan_interval=SCAN_INTERVAL)) as feed:
        for sequence in range(2, 12):
            await add_events(store, TASK, sequence)
            feed.signal_commit()

        assert events.reads == 0
        assert len(await follow(feed, 0, 10)) == 10


async def test_feed_skips_unawaited_events_and_rechecks_task(store: Store, feed: Feed) -> None:
    count = KEPT + 100
    for first in range(2, count + 2, 100):
        await add_events(store, TASK, *range(first, first + 100))
    async with feed.watching(TASK.id) as changed:
        await asyncio.wait_for(changed.wait(), LONG.total_seconds())
    assert feed.latest == await feed.now()
    assert len(await follow(feed, 0, count)) == count


async def test_feed_close_ends_every_wait(store: Store) -> None:
    async with opened(Feed(store.events, scan_interval=SCAN_INTERVAL)) as feed:
        waiting = asyncio.create_task(feed.beyond(0, within=LONG))
        async with feed.watching(TASK.id) as changed:
            await asyncio.sleep(0)
            await feed.close()
            assert changed.is_set()
        assert not await waiting


async def test_feed_database_outage_only_delays_events(store: Store, feed: Feed) -> None:
    await store.close()
    waiting = asyncio.create_task(feed.beyond(0, within=LONG))
    await asyncio.sleep(0)
    await store.open()
    await add_events(store, TASK, 2)
    assert await waiting


class TestSeveralProcesses:
    """One database, and a feed that sees only commits of other processes."""

    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()

    async def test_remote_commits_share_one_notification(self, store: Store, url: str) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listening:
            async with opened(Feed(store.events, notices=store.notices, scan_interval=SCAN_INTERVAL)) as remote:
                await listening.execute(f"LISTEN {CHANNEL}".encode())
                await add_events(store, TASK, 2)
                for _ in range(500):
                    remote.signal_commit()
                channels = [notice.channel async for notice in listening.notifies(timeout=60, stop_after=1)]
                assert channels == [CHANNEL]
            assert [notice async for notice in listening.notifies(timeout=0.05)] == []

    async def test_notification_connection_loss_is_repaired(self, store: Store, url: str) -> None:
        notices = store.notices
        assert notices is not None
        notified = asyncio.Event()
        listening = asyncio.create_task(notices.listen(notified.set))
        await asyncio.wait_for(notified.wait(), LONG.total_seconds())
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(listening, LONG.total_seconds())
        async with opened(Feed(store.events, notices=notices, scan_interval=timedelta(milliseconds=10))) as feed:
            waiting = asyncio.create_task(feed.beyond(0, within=LONG))
            await asyncio.sleep(0)
            await add_events(store, TASK, 2)
            assert await waiting


async def test_notification_outage_is_logged_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenNotices:
        """Notices whose connection breaks as soon as it listens."""

        calls = 0
        third = asyncio.Event()

        async def listen(self, heard: Callable[[], None]) -> None:
            heard()
            self.calls += 1
            if self.calls > 2:
                self.third.set()
            raise StoreUnavailable("the connection broke")

        async def announce(self) -> None:
            pass

        async def close(self) -> None:
            pass

    store = Store(sqlite_url(tmp_path))
    await store.open()
    notices = BrokenNotices()
    try:
        async with opened(Feed(store.events, notices=notices, scan_interval=timedelta(milliseconds=10))):
            await asyncio.wait_for(notices.third.wait(), 20)

        assert sum("cannot be received: the connection broke" in message for message in caplog.messages) > 1
        assert "notices of other processes are received again" in caplog.messages
    finally:
        await store.close()
