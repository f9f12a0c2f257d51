"""Relays under many random problems at once: failures, slow sends, crashes, and new events meanwhile.

The test name contains the seed. HOMING_STORMS sets the number of seeds.
"""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from homing.serve import relay_of
from tests.support.builders import a_sink, a_task, an_event, writing
from tests.support.conditions import until
from tests.support.homing_server import settings_of
from tests.support.scripted_sink import NO, ScriptedSink
from tracker.app import create_tracker
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.timing import RELAY_TIMING
from tracker.model.clock import utc_now
from tracker.model.event import PublishedEvent
from tracker.model.task import Status
from tracker.service.tracker import Tracker

NOBODY = "http://127.0.0.1:9"
STORMS = int(os.environ.get("HOMING_STORMS", "5"))
TASKS = range(1, 13)
VERSIONS = range(2, 14)
HASTY = replace(
    RELAY_TIMING,
    lease=timedelta(seconds=0.4),
    renew=timedelta(seconds=0.1),
    acquire=timedelta(seconds=0.02),
    page=9,
    settle=timedelta(seconds=0.005),
    gather=timedelta(seconds=0.001),
    grace=timedelta(seconds=0.01),
    finish=timedelta(seconds=0.2),
    idle=timedelta(seconds=0.05),
    hurry=timedelta(),
)
SUBJECTS = {a_task(number).id: number for number in TASKS}


class Moody(ScriptedSink):
    """A sink that refuses some events and delays others at random."""

    def __init__(self, dice: Random, endpoints: int) -> None:
        super().__init__(width=5, answer=self.moody, where=self.one_of)
        self.dice = dice
        self.endpoints = endpoints
        self.calm = False
        self.badly = 0.2

    def one_of(self, event: PublishedEvent) -> str:
        return self.name if self.endpoints == 1 else f"endpoint {SUBJECTS[event.subject] % self.endpoints}"

    def moody(self, event: PublishedEvent) -> Outcome:
        del event
        return NO if not self.calm and self.dice.random() < self.badly else DELIVERED

    async def _send(self, event: PublishedEvent) -> Outcome:
        if not self.calm:
            await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.005, 0.03]))
        return await super()._send(event)


async def happening(tracker: Tracker, dice: Random) -> None:
    """Publish the events of the tasks at random times."""
    left = [number for number in TASKS for _ in VERSIONS]
    dice.shuffle(left)
    versions = dict.fromkeys(TASKS, 1)
    while left:
        for number in [left.pop() for _ in range(min(dice.randint(1, 6), len(left)))]:
            versions[number] += 1
            task = a_task(number, status=Status.PROCESSING, version=versions[number])
            await tracker.store.apply([writing(task, events=(an_event(task, versions[number]),))])
        tracker.feed.signal_commit()
        await asyncio.sleep(dice.choice([0, 0.001, 0.01]))


async def dropped(relaying: asyncio.Task[None]) -> None:
    """Cancel a relay, as a crash does: it cannot record its progress."""
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)


@pytest.mark.parametrize("endpoints", [1, 3])
@pytest.mark.parametrize("seed", range(STORMS))
async def test_relay_storm_keeps_all_in_task_order(url: str, tmp_path: Path, seed: int, endpoints: int) -> None:
    dice = Random(seed)
    sink = Moody(dice, endpoints)
    async with create_tracker(settings_of(tmp_path, NOBODY, database_url=url), clock=utc_now) as tracker:
        named = [(a_sink(name=sink.name, address="x:", beginning=True), sink)]

        def relaying() -> asyncio.Task[None]:
            relay = relay_of(tracker, named, timing=HASTY, chance=lambda: dice.random() / 20)
            return asyncio.create_task(relay.run(asyncio.Event()))

        story = asyncio.create_task(happening(tracker, dice))
        running = relaying()
        while not story.done():
            await asyncio.sleep(dice.uniform(0.05, 0.3))
            sink.badly = dice.choice([0.0, 0.2, 0.2, 1.0])
            if dice.random() < 0.3:
                await dropped(running)
                running = relaying()
        await story
        sink.calm = True

        async def all_received() -> bool:
            return len({event.id for event in sink.received if event.task is not None}) == len(TASKS) * len(VERSIONS)

        await until(all_received, within=60)
        await dropped(running)
    for task_id in SUBJECTS:
        assert sink.of(task_id) == list(VERSIONS)
