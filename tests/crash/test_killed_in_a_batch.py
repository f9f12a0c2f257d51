"""SIGKILL in the middle of group commits: what was acknowledged is recorded, and nothing is recorded twice.

Many senders at once, each callback signed and to its task's own address, against a server that dies at a named point of
a batch, or whenever the test chooses; then another life on the same database, and so on. The name of a test holds its
seed; by night there are so many of them that a thousand lives end that way.
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
# Each seed is tried on both databases.
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 63))]
TASKS = 30
# A batch of one has no neighbours to lose.
LEAST = 4
ANYTIME = "anytime"
NOBODY = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How one life ends: at a point of the first large batch once ``nth`` deliveries came, or once so many are told."""

    when: str
    nth: int

    @property
    def arguments(self) -> Sequence[str]:
        if self.when == ANYTIME:
            return ("--policy", "silent")
        batch = ("--piece", "RecordCallback", "--nth", str(self.nth), "--least", str(LEAST))
        return ("--policy", "silent", "--when", self.when, *batch)


async def written_down(url: str, lives: int) -> list[list[Delivery]]:
    """Add tasks that are waited for, and give for each life all that is told about its tasks."""
    store = Store(url)
    await store.open()
    made = [tasks(1 + life * TASKS, TASKS) for life in range(lives)]
    await store.apply([writing(task) for group in made for task in group])
    await store.close()
    return [[delivery for task in group for delivery in deliveries(task)] for group in made]


async def lived(homing: Server, senders: Senders, life: Life, sent: list[Delivery]) -> list[Delivery]:
    """Send to one life until it is over, look at what it left behind, and give what it did not acknowledge."""
    told = len(senders.acknowledged)

    def end_it() -> None:
        if len(senders.acknowledged) >= told + life.nth:
            homing.kill()

    senders.heard = end_it if life.when == ANYTIME else lambda: None
    await homing.start(*life.arguments)
    left = await senders.send(sent)
    await homing.dead()
    return [delivery for delivery in dict.fromkeys(left) if delivery not in senders.acknowledged]


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_acknowledged_is_recorded_and_nothing_twice(url: str, tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    stories = await written_down(url, LIVES)
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
                assert life.when not in {AFTER, HALF} or unanswered > 0, "it did not die where it was meant to"
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


async def test_a_polite_end_under_load_answers_all_that_it_has_begun(tmp_path: Path, url: str) -> None:
    told = [delivery for group in await written_down(url, LIVES) for delivery in group]
    async with server(tmp_path, NOBODY, database_url=url, log_level="warning", **SECRETS) as homing:
        await homing.start(program=HOMING)
        senders = Senders(port=homing.port)

        def end_it() -> None:
            if len(senders.acknowledged) == TASKS:
                os.kill(homing.lives[-1].pid, signal.SIGTERM)

        senders.heard = end_it
        left = await senders.send(told)
        homing.lives[-1].wait()
        assert homing.lives[-1].returncode == 0, homing.logged()
    assert left, "it was over before it was ended"
    found = records(url)
    agree(found)
    assert found.bodies == Counter((delivery.task_id, delivery.body) for delivery in senders.acknowledged)
