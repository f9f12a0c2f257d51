"""A failing loop restarts. It stops neither the other loops nor the process."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from homing.server.loops import looping

SOON = timedelta(milliseconds=1)


@dataclass(slots=True)
class Steady:
    """Runs until it is stopped, and then completes its work."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    finished: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        self.begun.set()
        await stop.wait()
        await asyncio.sleep(0)
        self.finished = True


@dataclass(slots=True)
class Failing:
    """Fails twice and then runs."""

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


async def test_failing_loop_restarts_and_others_continue() -> None:
    steady, failing = Steady(), Failing()
    async with asyncio.timeout(10), looping([failing, steady], wait=SOON):
        await failing.recovered.wait()
        assert steady.begun.is_set()
        assert not steady.finished
    assert failing.runs == 3


async def test_shutdown_waits_for_work_in_progress() -> None:
    steady = Steady()
    async with looping([steady]):
        await steady.begun.wait()
    assert steady.finished


async def test_loop_waiting_to_restart_does_not_delay_shutdown() -> None:
    failing = Failing()
    async with asyncio.timeout(10):
        async with looping([failing], wait=timedelta(hours=1)):
            await failing.begun.wait()
    assert failing.runs == 1
