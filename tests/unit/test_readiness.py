"""Readiness is asked by anybody and often: one look is shared by all who ask meanwhile, also where it hangs."""

import asyncio
from datetime import timedelta

import pytest

from tests.fakes import Clock
from tracker.app import create_tracker
from tracker.errors import StoreUnavailable
from tracker.readiness import KEPT, Readiness
from tracker.service import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store


class HangingStore(Store):
    """A database whose answer to a ping waits for ``gate``, and is ``error`` where there is one."""

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


async def test_all_who_ask_while_the_database_hangs_share_one_look() -> None:
    store, clock = HangingStore(), Clock()
    tracker = tracking(store, clock)
    asking = [asyncio.create_task(tracker.check())]
    for _ in range(50):
        await asyncio.sleep(0)
        clock.advance(KEPT)
        asking.append(asyncio.create_task(tracker.check()))
    await store.asked.wait()
    assert not any(each.done() for each in asking)
    store.gate.set()
    told = await asyncio.gather(*asking)
    assert [[check.ok for check in checks] for checks in told] == [[True]] * 51
    assert store.pings == 1


async def test_whoever_stops_waiting_takes_the_look_from_nobody() -> None:
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


async def test_trouble_is_told_to_all_and_kept_for_a_moment() -> None:
    store, clock = HangingStore(), Clock()
    store.error = StoreUnavailable("the disk is full")
    readiness = Readiness(store=store, clock=clock)
    asking = [asyncio.create_task(readiness.check()) for _ in range(3)]
    await store.asked.wait()
    store.gate.set()
    for checks in [*await asyncio.gather(*asking), await readiness.check()]:
        assert [(check.ok, check.detail) for check in checks] == [(False, "the disk is full")]
    assert store.pings == 1
    store.error = None
    clock.advance(KEPT)
    assert [check.ok for check in await readiness.check()] == [True]
    clock.advance(KEPT - timedelta(milliseconds=1))
    await readiness.check()
    assert store.pings == 2


async def test_what_nobody_foresaw_is_no_answer_and_the_next_one_looks_again() -> None:
    store = HangingStore()
    store.gate.set()
    store.error = RuntimeError("nobody expected this")
    readiness = Readiness(store=store, clock=Clock())
    with pytest.raises(RuntimeError):
        await readiness.check()
    store.error = None
    assert [check.ok for check in await readiness.check()] == [True]


async def test_an_end_waits_for_no_look() -> None:
    store = HangingStore()
    readiness = Readiness(store=store, clock=Clock())
    await readiness.close()
    asking = asyncio.create_task(readiness.check())
    await store.asked.wait()
    async with asyncio.timeout(5):
        await readiness.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
