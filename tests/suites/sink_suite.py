"""Shared suite for every sink; a subclass defines the fixture ``case``.

The relay, the database and the endpoint are real. No event may be lost. The events of a task arrive in order: the first
arrival of each comes before the next event. A repeated event has the same ID.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.suites.sink_case import LIMIT, SinkCase, SinkHarness, sink_harness
from tests.support.builders import a_task
from tests.support.conditions import until
from tests.support.published_events import a_success, an_alarm, an_event
from tracker.delivery.sinks.base import DELIVERED


def begun(harness: SinkHarness, count: int) -> Callable[[], Awaitable[bool]]:
    """Make the condition that so many different events arrived."""

    async def condition() -> bool:
        return sum(map(len, (await harness.arrived()).values())) >= count

    return condition


def failed(harness: SinkHarness) -> Callable[[], Awaitable[bool]]:
    """Return a condition that is true after a failed delivery."""

    async def condition() -> bool:
        (state,) = await harness.tracker.store.sinks.states()
        return bool(state.last_error)

    return condition


class SinkSuite:
    """Every test begins with a receiver that is up and empty, and nothing happened yet."""

    @pytest.fixture
    async def harness(self, case: SinkCase, tmp_path: Path) -> AsyncIterator[SinkHarness]:
        await case.start()
        try:
            async with sink_harness(tmp_path, case) as harness:
                yield harness
        finally:
            case.let_go()
            await case.kill()

    # ---- the sink by itself

    async def test_sent_event_arrives_with_its_id(self, harness: SinkHarness) -> None:
        sink, wave = harness.case.sink(), [an_event(a_success(n, **harness.case.task), cursor=n) for n in (1, 2, 3)]
        await sink.open()
        assert [sink.endpoint(event) is None for event in wave] == [False] * 3
        assert await sink.send(wave) == [DELIVERED] * 3
        await sink.close()
        got = sorted(await harness.case.got(), key=lambda one: one.subject)
        assert [one.id for one in got] == [harness.case.id_of(event) for event in wave]
        assert [(one.subject, one.sequence) for one in got] == [(event.subject, event.sequence) for event in wave]

    async def test_redelivered_event_is_identical(self, harness: SinkHarness) -> None:
        sink, event = harness.case.sink(), an_event(a_success(**harness.case.task))
        await sink.open()
        for _ in range(3):
            assert await sink.send([event]) == [DELIVERED]
        await sink.close()
        assert set(await harness.case.got()) == {(await harness.case.got())[0]}

    async def test_alarm_arrives_if_the_sink_accepts_alarms(self, harness: SinkHarness) -> None:
        sink, event = harness.case.sink(), an_alarm()
        await sink.open()
        assert (sink.endpoint(event) is not None) == harness.case.alarms
        if harness.case.alarms:
            assert await sink.send([event]) == [DELIVERED]
            assert [got.id for got in await harness.case.got()] == [event.id]
        await sink.close()

    async def test_unavailable_endpoint_is_an_outcome_and_recovers(self, harness: SinkHarness) -> None:
        sink, event = harness.case.sink(), an_event(a_success(**harness.case.task))
        await harness.case.kill()
        await asyncio.wait_for(sink.open(), LIMIT)
        (outcome,) = await asyncio.wait_for(sink.send([event]), LIMIT)
        assert (outcome.delivered, outcome.hopeless, outcome.gone) == (False, False, False)
        assert outcome.error
        assert "\n" not in outcome.error
        await harness.case.start()

        async def taken() -> bool:
            return (await sink.send([event]))[0].delivered

        await until(taken)
        await sink.close()
        assert {got.id for got in await harness.case.got()} == {harness.case.id_of(event)}

    async def test_refused_event_fails_alone(self, harness: SinkHarness) -> None:
        sink, wave = harness.case.sink(), [an_event(a_success(n, **harness.case.task), cursor=n) for n in range(1, 6)]
        harness.case.refuse(lambda got: got.subject == wave[2].subject)
        await sink.open()
        outcomes = await sink.send(wave)
        await sink.close()
        assert [outcome.delivered for outcome in outcomes] == [True, True, False, True, True]
        assert sorted(got.subject for got in await harness.case.got()) == sorted(
            event.subject for event in wave if event is not wave[2]
        )

    async def test_sink_can_be_closed_and_reopened_at_any_time(self, harness: SinkHarness) -> None:
        sink, event = harness.case.sink(), an_event(a_success(**harness.case.task))
        await sink.close()
        await sink.open()
        harness.case.hold()
        sending = asyncio.create_task(sink.send([event]))
        await until(harness.case.is_holding)
        await asyncio.wait_for(sink.close(), LIMIT)
        harness.case.let_go()
        assert len(await asyncio.wait_for(sending, LIMIT)) == 1
        await sink.open()
        assert await sink.send([event]) == [DELIVERED]
        await sink.close()
        assert {got.id for got in await harness.case.got()} == {harness.case.id_of(event)}

    # ---- the sink and the relay

    async def test_events_all_arrive_in_order_within_a_task(self, harness: SinkHarness) -> None:
        await harness.happen(*range(1, 31), *range(30, 0, -1))
        async with harness.relaying():
            await harness.happen(*range(1, 31), *([7] * 20))
            await harness.all_arrived()

    async def test_endpoint_down_at_start_misses_nothing(self, harness: SinkHarness) -> None:
        await harness.case.kill()
        async with harness.relaying():
            await harness.happen(*[1, 2, 3] * 4)
            await until(failed(harness))
            await harness.case.start()
            await harness.all_arrived()

    async def test_endpoint_killed_and_restarted_misses_nothing(self, harness: SinkHarness) -> None:
        async with harness.relaying():
            for round_ in range(1, 4):
                await harness.happen(*range(1, 11))
                await until(begun(harness, round_ * 10 - 5))
                await harness.case.kill()
                await harness.happen(*range(1, 11), *range(1, 11))
                await harness.case.start()
            await harness.all_arrived()

    async def test_refused_event_blocks_only_its_own_task(self, harness: SinkHarness) -> None:
        poisoned = a_task(1).id
        harness.case.refuse(lambda got: (got.subject, got.sequence) == (poisoned, 3))
        async with harness.relaying():
            await harness.happen(*[1, 2, 3, 4, 5] * 6)
            await until(begun(harness, 4 * 6 + 1))
            await until(failed(harness))
            arrived = await harness.arrived()
            assert arrived == {
                subject: ids[:1] if subject == poisoned else ids for subject, ids in harness.happened.items()
            }
            harness.case.refuse(lambda _: False)
            await harness.all_arrived()

    async def test_slow_endpoint_gets_everything_in_order(self, harness: SinkHarness) -> None:
        harness.case.hold()
        async with harness.relaying():
            await harness.happen(*range(1, 11))
            await until(harness.case.is_holding)
            await harness.happen(*range(1, 11), *range(1, 11))
            harness.case.let_go()
            await harness.all_arrived()

    async def test_delivery_in_flight_at_shutdown_arrives_later(self, harness: SinkHarness) -> None:
        harness.case.hold()
        await harness.happen(*[1, 2, 3, 4] * 3)
        async with harness.relaying():
            await until(harness.case.is_holding)
        harness.case.let_go()
        async with harness.relaying():
            await harness.all_arrived()
