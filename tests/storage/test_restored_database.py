"""Test a database that is restored to an older state, on both databases.

Consumers follow docs/reference/events.md: they drop an event whose sequence is not greater than the known one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from homing.serve import membership_of
from tests.delivery.test_relay_running import Place, relaying
from tests.support.backups import back_up
from tests.support.builders import NOW, a_task, writing
from tests.support.conditions import until
from tests.support.postgres import Postgres, Standby
from tests.support.postgres import running as running_postgres
from tests.support.scripted_sink import ScriptedSink
from tracker.errors import StoreUnavailable
from tracker.loops.membership import HeartbeatTiming
from tracker.model.clock import SteeredClock
from tracker.model.event import PublishedEvent, attributes
from tracker.model.servers import Part
from tracker.model.task import Event, Status
from tracker.storage.store import Store

SOON = timedelta(seconds=20)
CHANGED = "homing.alarm.database_changed"
QUICK = HeartbeatTiming(heartbeat=timedelta(milliseconds=50), silence=timedelta(milliseconds=200))
Restore = Callable[[], None]


@dataclass(slots=True)
class Consumer:
    """Keep the newest received state of each task."""

    known: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)

    def take(self, events: Sequence[PublishedEvent]) -> "Consumer":
        for event in events:
            sequence = attributes(event, "x")["sequence"]
            if event.task is not None and sequence > self.known.get(event.subject, ""):
                self.known[event.subject] = sequence
                self.statuses[event.subject] = event.task.status
        return self


async def happen(store: Store, status: Status, *tasks: int, version: int, seconds: int = 0) -> None:
    """Let tasks reach a status, all in one batch."""
    at = NOW + timedelta(seconds=seconds)
    changed = [a_task(number, status=status, version=version, updated_at=at) for number in tasks]
    kind = f"homing.task.{status.value}"
    await store.apply([writing(task, events=(Event(type=kind, task=task, at=at),)) for task in changed])


async def last_statuses(sink: ScriptedSink, *tasks: int, status: Status) -> None:
    """Wait until a sink has received a status for each task."""

    async def there() -> bool:
        last = {event.subject: event.task.status for event in sink.received if event.task is not None}
        return all(last.get(a_task(number).id) is status for number in tasks)

    await until(there, within=30)


async def alarmed(sink: ScriptedSink) -> None:
    """Wait until a sink has received the alarm about the restored database."""

    async def there() -> bool:
        return CHANGED in [event.type for event in sink.received]

    await until(there, within=30)


@pytest.fixture
def backup(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Restore]:
    return lambda: back_up(url, tmp_path, request)


@pytest.fixture
async def shop() -> ScriptedSink:
    return ScriptedSink(width=500)


@pytest.fixture
async def relay(url: str, tmp_path: Path, shop: ScriptedSink) -> AsyncIterator[Place]:
    async with relaying(url, tmp_path, shop) as here:
        yield here


async def test_restored_database_sink_gets_later_events(
    relay: Place, shop: ScriptedSink, backup: Callable[[], Restore]
) -> None:
    store, feed = relay.tracker.store, relay.tracker.feed
    await happen(store, Status.SUBMITTED, 1, 2, 3, version=2)
    restore = backup()
    await happen(store, Status.SUCCEEDED, 1, 2, version=3)
    await happen(store, Status.PROCESSING, 4, 5, 6, version=2)
    feed.signal_commit()
    await last_statuses(shop, 4, 5, 6, status=Status.PROCESSING)
    lost = {event.id for event in shop.received[3:]}
    cursor = shop.received[-1].cursor

    restore()
    # The same tasks get the same versions, for other reasons.
    await happen(store, Status.FAILED, 1, version=3, seconds=5)
    await happen(store, Status.SUBMITTED, 4, version=2, seconds=5)
    await happen(store, Status.PROCESSING, 2, version=3, seconds=5)
    feed.signal_commit()

    await last_statuses(shop, 2, status=Status.PROCESSING)
    await last_statuses(shop, 1, status=Status.FAILED)
    new = [event for event in await store.events.read(after=cursor, limit=100) if event.type != CHANGED]
    assert len(new) == 3, "a stream that goes on after a lost event skips none"
    assert lost.isdisjoint(event.id for event in new), "an id was given again"
    kept = Consumer().take(shop.received).statuses
    for number in (1, 2, 3, 4):
        task = await store.tasks.get(a_task(number).id)
        assert task is not None
        assert kept[task.id] is task.status
    assert (await relay.state()).waiting == 0


async def test_restored_database_stream_shows_only_its_events(relay: Place, backup: Callable[[], Restore]) -> None:
    store, feed = relay.tracker.store, relay.tracker.feed
    await happen(store, Status.SUBMITTED, 1, version=2)
    restore = backup()
    await happen(store, Status.SUCCEEDED, 1, version=3)
    feed.signal_commit()
    assert await feed.beyond(1, within=SOON)
    (lost,) = await feed.read(1)

    restore()
    await happen(store, Status.FAILED, 1, version=3, seconds=5)
    feed.signal_commit()
    assert await feed.beyond(lost.cursor, within=SOON)

    found = [
        event for event in await feed.read(lost.cursor) if isinstance(event, PublishedEvent) and event.task is not None
    ]
    assert [event.task.status for event in found if event.task is not None] == [Status.FAILED]
    everything = [event.id for event in await store.events.read(after=0, limit=100)]
    assert lost.id not in everything


async def test_restored_database_raises_one_alarm(
    relay: Place, shop: ScriptedSink, backup: Callable[[], Restore], caplog: pytest.LogCaptureFixture
) -> None:
    store = relay.tracker.store
    await happen(store, Status.SUBMITTED, 1, version=2)
    restore = backup()
    await happen(store, Status.SUCCEEDED, 1, version=3)
    relay.tracker.feed.signal_commit()
    await last_statuses(shop, 1, status=Status.SUCCEEDED)

    restore()
    await happen(store, Status.FAILED, 1, version=3, seconds=5)
    await alarmed(shop)

    assert [event.type for event in shop.received].count(CHANGED) == 1
    records = [record for record in caplog.records if record.name == "homing.database"]
    assert [record.levelname for record in records] == ["WARNING"]


async def test_sink_newer_than_backup_misses_nothing(
    url: str, tmp_path: Path, shop: ScriptedSink, backup: Callable[[], Restore], store: Store
) -> None:
    await happen(store, Status.SUBMITTED, 1, version=2)
    restore = backup()
    async with relaying(url, tmp_path, shop) as here:
        await last_statuses(shop, 1, status=Status.SUBMITTED)
        await happen(here.tracker.store, Status.SUCCEEDED, 1, version=3)
        here.tracker.feed.signal_commit()
        await last_statuses(shop, 1, status=Status.SUCCEEDED)

        restore()
        await happen(here.tracker.store, Status.FAILED, 1, version=3, seconds=5)
        here.tracker.feed.signal_commit()

        await last_statuses(shop, 1, status=Status.FAILED)


async def test_delivery_replica_detects_restored_database(
    postgres: Postgres, tmp_path: Path, shop: ScriptedSink
) -> None:
    url = postgres.fresh()
    other = Store(url)
    await other.open()
    async with serving(url, tmp_path, shop) as here:
        await happen(other, Status.SUBMITTED, 1, version=2)
        dump = postgres.dump(url)
        await happen(other, Status.SUCCEEDED, 1, version=3)
        await last_statuses(shop, 1, status=Status.SUCCEEDED)

        postgres.restore(url, dump)
        await other.close()
        # It has a past of its own, and nothing to notice.
        third = Store(url)
        await third.open()
        await alarmed(shop)
        await happen(third, Status.FAILED, 1, version=3, seconds=5)
        await third.close()

        await last_statuses(shop, 1, status=Status.FAILED)
        assert here.tracker.store.continuity.changes == 1


async def test_generated_secret_survives_an_older_backup(
    url: str, relay: Place, shop: ScriptedSink, backup: Callable[[], Restore]
) -> None:
    store = relay.tracker.store
    await happen(store, Status.SUBMITTED, 1, version=2)
    restore = backup()
    used = await store.secrets.get("sink shop", b"made up")
    await happen(store, Status.SUCCEEDED, 1, version=3)

    restore()
    await happen(store, Status.FAILED, 1, version=3, seconds=5)
    await alarmed(shop)

    other = Store(url)
    await other.open()
    assert await other.secrets.get("sink shop", b"another") == used
    await other.close()


@asynccontextmanager
async def serving(url: str, folder: Path, shop: ScriptedSink) -> AsyncIterator[Place]:
    """Serve as the only process does."""
    async with (
        relaying(url, folder, shop) as here,
        membership_of(here.tracker, SteeredClock(), parts=[Part.LOOPS], heartbeat_timing=QUICK),
    ):
        yield here


async def test_first_start_counts_events_from_one(url: str, tmp_path: Path, shop: ScriptedSink) -> None:
    numbers = []
    for version in (2, 3):
        async with serving(url, tmp_path, shop) as here:
            await happen(here.tracker.store, Status.SUBMITTED, 1, version=version)
            numbers.append(await here.tracker.store.events.latest())

    assert numbers[0] == 1
    assert numbers[1] > 1 << 44


@pytest.mark.parametrize("has_events", [True, False], ids=["used", "without-events"])
async def test_database_restored_offline_reuses_no_id(
    url: str, tmp_path: Path, shop: ScriptedSink, backup: Callable[[], Restore], *, has_events: bool
) -> None:
    async with serving(url, tmp_path, shop) as here:
        if has_events:
            await happen(here.tracker.store, Status.SUBMITTED, 1, version=2)
    restore = backup()
    async with serving(url, tmp_path, shop) as here:
        await happen(here.tracker.store, Status.SUCCEEDED, 1, version=3)
        here.tracker.feed.signal_commit()
        await last_statuses(shop, 1, status=Status.SUCCEEDED)
    lost = shop.received[-1]

    restore()
    async with serving(url, tmp_path, shop) as here:
        await happen(here.tracker.store, Status.FAILED, 1, version=3, seconds=5)
        here.tracker.feed.signal_commit()
        await last_statuses(shop, 1, status=Status.FAILED)
        new = shop.received[-1]
        assert new.cursor > lost.cursor, "a client that comes back with a lost cursor would miss it"
        assert new.id != lost.id
    assert Consumer().take(shop.received).statuses == {new.subject: Status.FAILED}


async def test_standby_promoted_early_loses_no_later_event(tmp_path: Path, shop: ScriptedSink) -> None:
    with running_postgres() as primary:
        url = primary.fresh()
        with primary.standby() as standby:
            either = f"{url},{standby.socket}"
            async with relaying(either, tmp_path, shop) as here:
                store, feed = here.tracker.store, here.tracker.feed
                await happen(store, Status.SUBMITTED, 1, 2, version=2)
                await until(partial(replayed, standby, url, 2), within=30)
                standby.stop()
                await happen(store, Status.SUCCEEDED, 1, 2, version=3)
                feed.signal_commit()
                await last_statuses(shop, 1, 2, status=Status.SUCCEEDED)
                lost = {event.id for event in shop.received[2:]}

                primary.stop()
                standby.start()
                standby.promote()
                await insisting(partial(happen, store, Status.FAILED, 1, version=3, seconds=5))
                await happen(store, Status.PROCESSING, 2, version=3, seconds=5)
                feed.signal_commit()

                await last_statuses(shop, 2, status=Status.PROCESSING)
                await last_statuses(shop, 1, status=Status.FAILED)
                await alarmed(shop)
                assert lost.isdisjoint(event.id for event in await store.events.read(after=0, limit=100))
                kept = Consumer().take(shop.received).statuses
                assert kept == {a_task(1).id: Status.FAILED, a_task(2).id: Status.PROCESSING}
                assert (await here.state()).waiting == 0
        primary.start()


async def replayed(standby: Standby, url: str, count: int) -> bool:
    where = f"{url.partition('host=')[0]}host={standby.socket}"
    async with await psycopg.AsyncConnection.connect(where) as connection:
        found = await (await connection.execute("SELECT count(*) FROM events")).fetchone()
    return found == (count,)


async def insisting(action: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again until the database can be written."""

    async def done() -> bool:
        try:
            await action()
        except StoreUnavailable:
            return False
        return True

    await until(done, within=30)
