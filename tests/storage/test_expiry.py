"""Test that each asset that expires soon causes one warning, on both databases, for any number of scans."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from tests.support.builders import NOW, a_task, writing
from tests.support.fakes import Clock
from tests.support.published_events import readable
from tracker.loops.expiry import Expiry
from tracker.model.task import Alarm, Status
from tracker.providers.base import Account
from tracker.providers.replicate import Replicate
from tracker.service.feed import Feed
from tracker.storage.store import Store

DAY = timedelta(days=1)
LIFETIME, NOTICE = 30 * DAY, 3 * DAY
FIRST = NOW + LIFETIME


async def ended(store: Store, number: int, at: datetime, status: Status = Status.SUCCEEDED) -> str:
    task = a_task(number, status=status, finished_at=at)
    await store.apply([writing(task)])
    return task.id


async def look(store: Store, now: datetime, limit: int = 10, provider: str = "kling") -> int:
    return await store.result_expiry.warn(provider, lifetime=LIFETIME, notice=NOTICE, now=now, limit=limit)


async def warned(store: Store) -> int:
    """Return the number of warnings from the hourly counts."""
    stats = await store.stats(client=None, now=FIRST)
    return sum(alarm.count for alarm in stats.alarms if alarm.kind is Alarm.EXPIRING_RESULT)


async def test_expiry_warns_once_and_one_event_per_hour(store: Store) -> None:
    assert await look(store, FIRST) == 0
    begun = FIRST - LIFETIME + NOTICE
    first = await ended(store, 1, begun + DAY)
    await ended(store, 2, begun + DAY)
    await ended(store, 3, begun + 2 * DAY)
    await ended(store, 4, begun + DAY, Status.FAILED)
    assert await look(store, FIRST + DAY - timedelta(seconds=1)) == 0
    assert [await look(store, FIRST + DAY) for _ in range(3)] == [2, 0, 0]
    assert await look(store, FIRST + 2 * DAY) == 1
    events = readable(await store.events.read(after=0, limit=10))
    assert [one.type for one in events] == ["homing.alarm.expiring_result"] * 2
    alarm = events[0].alarm
    assert alarm is not None
    assert alarm.detail == "its results stop working at 2026-12-27 12:00 UTC"
    assert alarm.task_id in {first, a_task(2).id}


async def test_expiry_too_close_at_first_scan_is_skipped(store: Store) -> None:
    await ended(store, 1, FIRST - LIFETIME + NOTICE - timedelta(seconds=1))
    assert await look(store, FIRST) == 0
    assert await look(store, FIRST + 30 * DAY) == 0


async def test_expiry_concurrent_scans_warn_exactly_once(store: Store, url: str) -> None:
    begun = FIRST - LIFETIME + NOTICE
    other = Store(url)
    await other.open()
    try:
        assert await look(store, FIRST) == 0
        for number in range(1, 31):
            # Three end at each moment: no step may stop between them.
            await ended(store, number, begun + timedelta(minutes=(number - 1) // 3 + 1))
        found = await asyncio.gather(*(look(each, FIRST + DAY, limit=4) for each in (store, other) * 10))
    finally:
        await other.close()
    assert sum(found) == 30
    assert await warned(store) == 30


async def test_expiry_of_results_that_live_an_hour_warns_in_minutes(store: Store) -> None:
    account = Account(name="default", provider=Replicate(), base_url="https://replicate.example", credential=None)
    feed = Feed(store.events, notices=store.notices, scan_interval=timedelta(seconds=1))
    clock = Clock()
    expiry = Expiry(store, {"replicate": account}, feed, clock=clock)
    await expiry.run_once()
    task = replace(a_task(1, status=Status.SUCCEEDED, finished_at=NOW), provider="replicate", kind="predictions")
    await store.apply([writing(task)])

    found = []
    for _ in range(4):
        clock.advance(timedelta(minutes=15))
        found.append(await expiry.run_once())

    assert found == [0, 0, 1, 0]
