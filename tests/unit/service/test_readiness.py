"""Tests of readiness: concurrent checks share one ping of the database, even if it hangs."""

import asyncio
from datetime import timedelta

import pytest

from tests.support.fakes import Clock
from tracker.app import create_tracker
from tracker.errors import StoreUnavailable
from tracker.service.readiness import KEPT, Readiness
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store


class HangingStore(Store):
    """A database that answers a ping when ``gate`` is set. It raises ``error`` if there is one."""

    def __init__(self) -> None:
        super().__init__("sqlite:///nowhere.db")
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.pings = 0
        self.error: Exception | None = None

    async def ping(self) -> None:
        self.pings += 1
        self.asked.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error


def tracking(store: Store, clock: Clock) -> Tracker:
    return create_tracker(Settings(), store=store, clock=clock)


async def test_concurrent_checks_share_one_ping() -> None:
    store, clock = HangingStore(), Clock()
    tracker = tracking(store, clock)
    pending = [asyncio.create_task(tracker.check())]
    for _ in range(50):
        await asyncio.sleep(0)
        clock.advance(KEPT)
        pending.append(asyncio.create_task(tracker.check()))
    await store.asked.wait()
    assert not any(each.done() for each in pending)
    store.gate.set()
    results = await asyncio.gather(*pending)
    assert [[check.ok for check in checks] for checks in results] == [[True]] * 51
    assert store.pings == 1


async def test_canceled_check_keeps_the_shared_ping() -> None:
    store = HangingStore()
    readiness = Readiness(store=store, clock=Clock())
    first, second = (asyncio.create_task(readiness.check()) for _ in range(2))
    await store.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    assert [check.ok for check in await second] == [True]
    assert store.pings == 1


async def test_failed_check_is_shared_and_cached() -> None:
    store, clock = HangingStore(), Clock()
    store.error = StoreUnavailable("the disk is full")
    readiness = Readiness(store=store, clock=clock)
    pending = [asyncio.create_task(readiness.check()) for _ in range(3)]
    await store.asked.wait()
    store.gate.set()
    for checks in [*await asyncio.gather(*pending), await readiness.check()]:
        assert [(check.ok, check.detail) for check in checks] == [(False, "the disk is full")]
    assert store.pings == 1
    store.error = None
    clock.advance(KEPT)
    assert [check.ok for check in await readiness.check()] == [True]
    clock.advance(KEPT - timedelta(milliseconds=1))
    await readiness.check()
    assert store.pings == 2


async def test_unexpected_error_fails_the_check_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store, clock = HangingStore(), Clock()
    store.gate.set()
    store.error = RuntimeError("nobody expected this")
    readiness = Readiness(store=store, clock=clock)

    (check,) = await readiness.check()

    assert (check.ok, check.detail) == (False, "the database cannot be written (RuntimeError). See the log")
    assert "nobody expected this" in caplog.text
    store.error = None
    clock.advance(KEPT)
    assert [check.ok for check in await readiness.check()] == [True]


async def test_hanging_database_fails_the_check() -> None:
    store = HangingStore()
    readiness = Readiness(store=store, clock=Clock(), patience=timedelta(milliseconds=10))

    for _ in range(2):
        (check,) = await readiness.check()
        assert not check.ok
        assert "has not answered for 0.01 s" in check.detail

    assert store.pings == 1
    store.gate.set()
    await readiness.close()


async def test_failing_batches_fail_the_check() -> None:
    store, clock = HangingStore(), Clock()
    store.gate.set()
    failures: list[str | None] = ["the database is damaged", None]
    readiness = Readiness(store=store, clock=clock, failing=lambda: failures.pop(0))

    (red,) = await readiness.check()
    clock.advance(KEPT)
    (green,) = await readiness.check()

    assert (red.ok, red.detail) == (False, "the latest requests could not be written: the database is damaged")
    assert green.ok


async def test_close_does_not_wait_for_a_check() -> None:
    store = HangingStore()
    readiness = Readiness(store=store, clock=Clock())
    await readiness.close()
    pending = asyncio.create_task(readiness.check())
    await store.asked.wait()
    async with asyncio.timeout(5):
        await readiness.close()
    with pytest.raises(asyncio.CancelledError):
        await pending
