"""SIGKILL between an event's sending and its being written down: it comes again, with the same id, and in order.

Real servers, callbacks from many senders, and a hook in their processes that notes what it is told.
"""

import os
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import httpx
import psycopg
import pytest

from tests.suites.store_case import read
from tests.support.builders import writing
from tests.support.callback_senders import SECRETS, Delivery, Senders, deliveries, tasks
from tests.support.database_records import records
from tests.support.deployment import HOMING, Server, server
from tests.support.homing_server import until
from tests.support.postgres import Postgres
from tests.support.recording_hook import RecordedCall, recorded_calls
from tracker.model import event_numbers
from tracker.storage.store import Store

NOBODY = "http://127.0.0.1:9"
SINK = "python:tests.support.recording_hook:note#name=hook&from=beginning"
TASKS = 40
LIVES = 4
REPLICA = ("-m", "tests.support.replica_server")


async def written_down(url: str) -> list[Delivery]:
    """Add tasks that are waited for, and give all that is told about them, each task's in its order."""
    store = Store(url)
    await store.open()
    made = tasks(1, TASKS)
    await store.apply([writing(task) for task in made])
    await store.close()
    return [delivery for task in made for delivery in deliveries(task)]


def told_in_order(told: Iterable[RecordedCall], url: str) -> None:
    """Check that all that happened was told, and each task's events first came in their order."""
    first: dict[str, list[int]] = defaultdict(list)
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in told:
        ids[each.subject, each.sequence].add(each.id)
        if each.sequence not in first[each.subject]:
            first[each.subject].append(each.sequence)
    happened: dict[str, list[int]] = defaultdict(list)
    for number, task_id, version in records(url).events:
        if task_id is not None:
            happened[task_id].append(event_numbers.sequence(number, version))
    assert {subject: first[subject] for subject in first if not subject.startswith("alarm-")} == happened
    assert all(len(each) == 1 for each in ids.values()), "a repeat has the id of its first"


def event_count(url: str) -> int:
    [(number,)] = read(url, "SELECT count(*) FROM events")
    return int(number)


def time_passes(url: str) -> None:
    """Let the dead one's lease of the sink be over; that it is waited for is shown below, by the two replicas."""
    if not url.startswith("sqlite"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE sinks SET lease_until = created_at")


async def all_told(url: str, file: Path) -> None:
    async def told() -> bool:
        return len({each.id for each in recorded_calls(file)}) == event_count(url)

    await until(told, within=60)


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)], indirect=True)
async def test_killed_between_send_and_mark_it_comes_again_with_the_same_id(url: str, tmp_path: Path) -> None:
    file = tmp_path / "told"
    chance = Random(4)
    left: Sequence[Delivery] = await written_down(url)
    async with server(tmp_path, NOBODY, database_url=url, sinks=SINK, log_level="warning", **SECRETS) as homing:
        homing.environ["TOLD_FILE"] = str(file)
        senders = Senders(port=homing.port)
        last = []
        for _ in range(LIVES):
            homing.environ["TOLD_FATAL"] = str(chance.randint(1, 12))
            await _started(homing)
            left = await senders.send(left)
            await homing.dead()
            last.append(recorded_calls(file)[-1])
            time_passes(url)
        del homing.environ["TOLD_FATAL"]
        await homing.start(program=HOMING)
        await senders.insist(left)
        await all_told(url, file)
        os.kill(homing.lives[-1].pid, signal.SIGTERM)
        homing.lives[-1].wait()
        assert homing.lives[-1].returncode == 0, homing.logged()
    told = recorded_calls(file)
    times = Counter(each.id for each in told)
    assert all(times[each.id] > 1 for each in last), "whoever died had told it, and nobody knew"
    told_in_order(told, url)
    [(cursor, newest)] = read(url, "SELECT cursor, (SELECT max(id) FROM events) FROM sinks WHERE name = 'hook'")
    assert cursor == newest


async def _started(homing: Server) -> None:
    """Begin a life that may die of what it owes before it was seen to be ready."""
    life = homing.begin(program=HOMING)

    async def ready_or_dead() -> bool:
        if life.poll() is not None:
            return True
        try:
            return (await homing.client.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    await until(ready_or_dead, within=60)


async def test_two_replicas_one_killed_nothing_is_lost_and_the_order_is_kept(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.fresh()
    file = tmp_path / "told"
    story = await written_down(url)
    async with AsyncExitStack() as stack:
        both = []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            one = await stack.enter_async_context(
                server(folder, NOBODY, database_url=url, sinks=SINK, log_level="warning", **SECRETS)
            )
            one.environ["TOLD_FILE"] = str(file)
            await one.start("--policy", "silent", program=REPLICA)
            both.append(one)
        half = len(story) // 2
        await Senders(port=both[0].port).insist(story[:half])

        async def begun() -> bool:
            return bool(recorded_calls(file))

        await until(begun)
        teller = next(one for one in both if one.lives[-1].pid == recorded_calls(file)[0].pid)
        (survivor,) = [one for one in both if one is not teller]
        senders = Senders(port=survivor.port)

        def kill() -> None:
            if len(senders.acknowledged) == 10:
                teller.kill()

        senders.heard = kill
        await senders.insist(story[half:])
        await teller.dead()
        await all_told(url, file)
        told = recorded_calls(file)
        assert {each.pid for each in told} == {one.lives[-1].pid for one in both}
        # Once it was taken over nobody else tells it.
        takeover = next(place for place, each in enumerate(told) if each.pid == survivor.lives[-1].pid)
        assert {each.pid for each in told[takeover:]} == {survivor.lives[-1].pid}
    told_in_order(told, url)
