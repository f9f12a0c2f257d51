"""SIGKILL in the middle of group commits: acknowledged callbacks are recorded, and nothing is recorded twice.

Many senders send signed callbacks to the task callback URLs at once. The server dies at a named point of a batch, or
when the test chooses. Then another server starts on the same database, and so on. The test name contains the seed. The
nightly run has enough seeds for a thousand kills.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.support.builders import writing
from tests.support.callback_senders import SECRETS, Delivery, Senders, deliveries, tasks
from tests.support.crash_points import AFTER, HALF, POINTS
from tests.support.database_records import agree, hold, hold_exactly, records
from tests.support.deployment import HOMING, Server, server
from tests.support.event_reader import reading_events
from tracker.storage.store import Store

LIVES = 8
# Each seed runs on both databases.
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 63))]
TASKS = 30
# A batch of one cannot lose other records.
LEAST = 4
ANYTIME = "anytime"
NOBODY = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How a server dies: at a point of the first large batch after ``nth`` callbacks, or after ``nth`` responses."""

    when: str
    nth: int

    @property
    def arguments(self) -> Sequence[str]:
        if self.when == ANYTIME:
            return ("--policy", "silent")
        batch = ("--piece", "RecordCallback", "--nth", str(self.nth), "--least", str(LEAST))
        return ("--policy", "silent", "--when", self.when, *batch)


async def add_tasks(url: str, lives: int) -> list[list[Delivery]]:
    """Add open tasks, and return all callbacks of the tasks of each life."""
    store = Store(url)
    await store.open()
    made = [tasks(1 + life * TASKS, TASKS) for life in range(lives)]
    await store.apply([writing(task) for group in made for task in group])
    await store.close()
    return [[delivery for task in group for delivery in deliveries(task)] for group in made]


async def lived(homing: Server, senders: Senders, life: Life, sent: list[Delivery]) -> list[Delivery]:
    """Send to one server until it dies, and return the callbacks that it did not acknowledge."""
    before = len(senders.acknowledged)

    def end_it() -> None:
        if len(senders.acknowledged) >= before + life.nth:
            homing.kill()

    senders.heard = end_it if life.when == ANYTIME else lambda: None
    await homing.start(*life.arguments)
    left = await senders.send(sent)
    await homing.dead()
    return [delivery for delivery in dict.fromkeys(left) if delivery not in senders.acknowledged]


@pytest.mark.parametrize("seed", SEEDS)
async def test_kill_in_batch_keeps_acknowledged_once(url: str, tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    stories = await add_tasks(url, LIVES)
    left: list[Delivery] = []
    async with server(tmp_path, NOBODY, database_url=url, log_level="warning", **SECRETS) as homing:
        senders = Senders(port=homing.port)
        with reading_events(url) as follower:
            for number, fresh in enumerate(stories):
                life = Life(when=chance.choice((*POINTS, ANYTIME)), nth=chance.randint(1, 2 * TASKS))
                sys.stdout.write(f"seed {seed}, life {number}: {life}\n")
                sent = [*left, *fresh, *chance.sample(fresh, TASKS // 2)]
                chance.shuffle(sent)
                left = await lived(homing, senders, life, sent)
                found = records(url)
                agree(found)
                hold(found, senders.acknowledged)
                unanswered = len(found.kept) - len(senders.acknowledged)
                assert life.when not in {AFTER, HALF} or unanswered > 0, "the server did not die at the chosen point"
            everything = [delivery for fresh in stories for delivery in fresh]
            senders.heard = lambda: None
            await homing.start("--policy", "silent")
            assert await senders.send([*left, *chance.sample(everything, TASKS)]) == []
            homing.kill()
            await homing.dead()
        found = records(url)
        agree(found)
        hold_exactly(found, everything)
        assert follower.seen == [number for number, *_ in found.events]


async def test_clean_stop_answers_all_started_requests(tmp_path: Path, url: str) -> None:
    callbacks = [delivery for group in await add_tasks(url, LIVES) for delivery in group]
    async with server(tmp_path, NOBODY, database_url=url, log_level="warning", **SECRETS) as homing:
        await homing.start(program=HOMING)
        senders = Senders(port=homing.port)

        def end_it() -> None:
            if len(senders.acknowledged) == TASKS:
                os.kill(homing.lives[-1].pid, signal.SIGTERM)

        senders.heard = end_it
        left = await senders.send(callbacks)
        homing.lives[-1].wait()
        assert homing.lives[-1].returncode == 0, homing.logged()
    assert left, "all callbacks were answered before the stop"
    found = records(url)
    agree(found)
    assert found.bodies == Counter((delivery.task_id, delivery.body) for delivery in senders.acknowledged)
