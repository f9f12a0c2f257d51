"""What every sink must do, whatever is behind it; a subclass says what that is, with the fixture ``case``.

The relay is the real one, and so are the database and the receiver. Nothing may be lost; each task's events arrive in
their order, each first before the next; what arrives again has the id that it had.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.builders import a_task
from tests.conformance.sink_case import LIMIT, House, SinkCase, house, until
from tests.events import a_success, an_alarm, an_event
from tracker.delivery.sinks.base import DELIVERED


def begun(home: House, count: int) -> Callable[[], Awaitable[bool]]:
    """Make the condition that so many different events arrived."""

    async def condition() -> bool:
        return sum(map(len, (await home.arrived()).values())) >= count

    return condition


def failed(home: House) -> Callable[[], Awaitable[bool]]:
    """Make the condition that something could not be told."""

    async def condition() -> bool:
        (state,) = await home.tracker.store.sinks.states()
        return bool(state.last_error)

    return condition


class SinkSuite:
    """Every test begins with a receiver that is up and empty, and nothing happened yet."""

    @pytest.fixture
    async def home(self, case: SinkCase, tmp_path: Path) -> AsyncIterator[House]:
        await case.start()
        try:
            async with house(tmp_path, case) as home:
                yield home
        finally:
            case.let_go()
            await case.kill()

    # ---- the sink by itself

    async def test_what_is_sent_arrives_with_its_id(self, home: House) -> None:
        sink, wave = home.case.sink(), [an_event(a_success(n, **home.case.task), cursor=n) for n in (1, 2, 3)]
        await sink.open()
        assert [sink.endpoint(told) is None for told in wave] == [False] * 3
        assert await sink.send(wave) == [DELIVERED] * 3
        await sink.close()
        got = sorted(await home.case.got(), key=lambda one: one.subject)
        assert [one.id for one in got] == [home.case.id_of(told) for told in wave]
        assert [(one.subject, one.sequence) for one in got] == [(told.subject, told.sequence) for told in wave]

    async def test_what_is_sent_again_is_the_same_again(self, home: House) -> None:
        sink, told = home.case.sink(), an_event(a_success(**home.case.task))
        await sink.open()
        for _ in range(3):
            assert await sink.send([told]) == [DELIVERED]
        await sink.close()
        assert set(await home.case.got()) == {(await home.case.got())[0]}

    async def test_an_alarm_arrives_where_the_sink_takes_any(self, home: House) -> None:
        sink, told = home.case.sink(), an_alarm()
        await sink.open()
        assert (sink.endpoint(told) is not None) == home.case.alarms
        if home.case.alarms:
            assert await sink.send([told]) == [DELIVERED]
            assert [got.id for got in await home.case.got()] == [told.id]
        await sink.close()

    async def test_a_receiver_that_is_down_is_an_outcome_and_no_error_and_it_may_come_up(self, home: House) -> None:
        sink, told = home.case.sink(), an_event(a_success(**home.case.task))
        await home.case.kill()
        await asyncio.wait_for(sink.open(), LIMIT)
        (outcome,) = await asyncio.wait_for(sink.send([told]), LIMIT)
        assert (outcome.delivered, outcome.hopeless, outcome.gone) == (False, False, False)
        assert outcome.error
        assert "\n" not in outcome.error
        await home.case.start()

        async def taken() -> bool:
            return (await sink.send([told]))[0].delivered

        await until(taken)
        await sink.close()
        assert {got.id for got in await home.case.got()} == {home.case.id_of(told)}

    async def test_one_event_that_is_refused_is_its_own_failure_alone(self, home: House) -> None:
        sink, wave = home.case.sink(), [an_event(a_success(n, **home.case.task), cursor=n) for n in range(1, 6)]
        home.case.refuse(lambda got: got.subject == wave[2].subject)
        await sink.open()
        outcomes = await sink.send(wave)
        await sink.close()
        assert [outcome.delivered for outcome in outcomes] == [True, True, False, True, True]
        assert sorted(got.subject for got in await home.case.got()) == sorted(
            told.subject for told in wave if told is not wave[2]
        )

    async def test_it_can_be_closed_at_any_time_and_opened_again(self, home: House) -> None:
        sink, told = home.case.sink(), an_event(a_success(**home.case.task))
        await sink.close()
        await sink.open()
        home.case.hold()
        sending = asyncio.create_task(sink.send([told]))
        await until(home.case.is_holding)
        await asyncio.wait_for(sink.close(), LIMIT)
        home.case.let_go()
        assert len(await asyncio.wait_for(sending, LIMIT)) == 1
        await sink.open()
        assert await sink.send([told]) == [DELIVERED]
        await sink.close()
        assert {got.id for got in await home.case.got()} == {home.case.id_of(told)}

    # ---- the sink and the relay

    async def test_every_event_arrives_and_those_of_a_task_in_their_order(self, home: House) -> None:
        await home.happen(*range(1, 31), *range(30, 0, -1))
        async with home.relaying():
            await home.happen(*range(1, 31), *([7] * 20))
            await home.all_arrived()

    async def test_a_receiver_that_is_down_at_the_start_misses_nothing(self, home: House) -> None:
        await home.case.kill()
        async with home.relaying():
            await home.happen(*[1, 2, 3] * 4)
            await until(failed(home))
            await home.case.start()
            await home.all_arrived()

    async def test_a_receiver_that_is_killed_and_started_again_misses_nothing(self, home: House) -> None:
        async with home.relaying():
            for round_ in range(1, 4):
                await home.happen(*range(1, 11))
                await until(begun(home, round_ * 10 - 5))
                await home.case.kill()
                await home.happen(*range(1, 11), *range(1, 11))
                await home.case.start()
            await home.all_arrived()

    async def test_an_event_that_is_refused_holds_back_what_follows_it_of_its_task_and_nothing_else(
        self, home: House
    ) -> None:
        poisoned = a_task(1).id
        home.case.refuse(lambda got: (got.subject, got.sequence) == (poisoned, 3))
        async with home.relaying():
            await home.happen(*[1, 2, 3, 4, 5] * 6)
            await until(begun(home, 4 * 6 + 1))
            await until(failed(home))
            arrived = await home.arrived()
            assert arrived == {
                subject: ids[:1] if subject == poisoned else ids for subject, ids in home.happened.items()
            }
            home.case.refuse(lambda _: False)
            await home.all_arrived()

    async def test_a_receiver_that_is_slow_gets_everything_in_order(self, home: House) -> None:
        home.case.hold()
        async with home.relaying():
            await home.happen(*range(1, 11))
            await until(home.case.is_holding)
            await home.happen(*range(1, 11), *range(1, 11))
            home.case.let_go()
            await home.all_arrived()

    async def test_what_is_being_sent_when_the_relay_ends_arrives_from_the_next(self, home: House) -> None:
        home.case.hold()
        await home.happen(*[1, 2, 3, 4] * 3)
        async with home.relaying():
            await until(home.case.is_holding)
        home.case.let_go()
        async with home.relaying():
            await home.all_arrived()
