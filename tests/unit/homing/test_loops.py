"""The loops beside a server: one that fails ends neither the others nor the process, and begins anew."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from homing.server.loops import looping

SOON = timedelta(milliseconds=1)


@dataclass(slots=True)
class Steady:
    """Runs until it is told to stop, and then finishes something."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    finished: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        self.begun.set()
        await stop.wait()
        await asyncio.sleep(0)
        self.finished = True


@dataclass(slots=True)
class Failing:
    """Fails twice, and then runs."""

    runs: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    recovered: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stop: asyncio.Event) -> None:
        self.runs += 1
        self.begun.set()
        if self.runs < 3:
            raise ZeroDivisionError
        self.recovered.set()
        await stop.wait()


async def test_a_loop_that_fails_begins_anew_and_the_others_go_on() -> None:
    steady, failing = Steady(), Failing()
    async with asyncio.timeout(10), looping([failing, steady], wait=SOON):
        await failing.recovered.wait()
        assert steady.begun.is_set()
        assert not steady.finished
    assert failing.runs == 3


async def test_the_end_waits_until_each_loop_has_finished_what_it_began() -> None:
    steady = Steady()
    async with looping([steady]):
        await steady.begun.wait()
    assert steady.finished


async def test_a_loop_that_waits_to_begin_anew_does_not_hold_up_the_end() -> None:
    failing = Failing()
    async with asyncio.timeout(10):
        async with looping([failing], wait=timedelta(hours=1)):
            await failing.begun.wait()
    assert failing.runs == 1
