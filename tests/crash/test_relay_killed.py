"""SIGKILL after an event is sent and before Homing records it: the event repeats with the same ID, in order.

The tests use real servers, callbacks from many senders, and a subscriber in each process that records its calls.
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
from tests.support.conditions import until
from tests.support.database_records import records
from tests.support.deployment import HOMING, Server, server
from tests.support.postgres import Postgres
from tests.support.recording_hook import RecordedCall, recorded_calls
from tracker.model.event import sequence_of
from tracker.storage.store import Store

NOBODY = "http://127.0.0.1:9"
SINK = "python:tests.support.recording_hook:note#name=hook&from=beginning"
TASKS = 40
LIVES = 4
REPLICA = ("-m", "tests.support.replica_server")


async def add_tasks(url: str) -> list[Delivery]:
    """Add open tasks, and return all their callbacks, in order per task."""
    store = Store(url)
    await store.open()
    made = tasks(1, TASKS)
    await store.apply([writing(task) for task in made])
    await store.close()
    return [delivery for task in made for delivery in deliveries(task)]


def check_order(calls: Iterable[RecordedCall], url: str) -> None:
    """Check that every event was delivered, and that the first deliveries of each task are in order."""
    first: dict[str, list[int]] = defaultdict(list)
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in calls:
        ids[each.subject, each.sequence].add(each.id)
        if each.sequence not in first[each.subject]:
            first[each.subject].append(each.sequence)
    happened: dict[str, list[int]] = defaultdict(list)
    for number, task_id, version in records(url).events:
        if task_id is not None:
            happened[task_id].append(sequence_of(number, version))
    assert {subject: first[subject] for subject in first if not subject.startswith("alarm-")} == happened
    assert all(len(each) == 1 for each in ids.values()), "a repeated event has the same ID"


def event_count(url: str) -> int:
    [(number,)] = read(url, "SELECT count(*) FROM events")
    return int(number)


def time_passes(url: str) -> None:
    """End the sink lease of the killed server. The test with two replicas shows that a server waits for this end."""
    if not url.startswith("sqlite"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE sinks SET lease_until = created_at")


async def all_delivered(url: str, file: Path) -> None:
    async def complete() -> bool:
        return len({each.id for each in recorded_calls(file)}) == event_count(url)

    await until(complete, within=60)


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)], indirect=True)
async def test_kill_before_record_repeats_with_same_id(url: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    chance = Random(4)
    left: Sequence[Delivery] = await add_tasks(url)
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
        await all_delivered(url, file)
        os.kill(homing.lives[-1].pid, signal.SIGTERM)
        homing.lives[-1].wait()
        assert homing.lives[-1].returncode == 0, homing.logged()
    calls = recorded_calls(file)
    times = Counter(each.id for each in calls)
    assert all(times[each.id] > 1 for each in last), "the killed server sent the event without recording it"
    check_order(calls, url)
    [(cursor, newest)] = read(url, "SELECT cursor, (SELECT max(id) FROM events) FROM sinks WHERE name = 'hook'")
    assert cursor == newest


async def _started(homing: Server) -> None:
    """Start a server that can die of a pending delivery before it is ready."""
    life = homing.begin(program=HOMING)

    async def ready_or_dead() -> bool:
        if life.poll() is not None:
            return True
        try:
            return (await homing.client.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    await until(ready_or_dead, within=60)


async def test_replica_killed_other_keeps_all_in_order(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.fresh()
    file = tmp_path / "calls"
    story = await add_tasks(url)
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
        delivering = next(one for one in both if one.lives[-1].pid == recorded_calls(file)[0].pid)
        (survivor,) = [one for one in both if one is not delivering]
        senders = Senders(port=survivor.port)

        def kill() -> None:
            if len(senders.acknowledged) == 10:
                delivering.kill()

        senders.heard = kill
        await senders.insist(story[half:])
        await delivering.dead()
        await all_delivered(url, file)
        calls = recorded_calls(file)
        assert {each.pid for each in calls} == {one.lives[-1].pid for one in both}
        # After the takeover, only the survivor delivers.
        takeover = next(place for place, each in enumerate(calls) if each.pid == survivor.lives[-1].pid)
        assert {each.pid for each in calls[takeover:]} == {survivor.lives[-1].pid}
    check_order(calls, url)
