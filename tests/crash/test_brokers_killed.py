"""SIGKILL after a broker has an event and before Homing records it: the event repeats with the same ID, in order.

JetStream keeps one message of each ID. With the other brokers, a consumer drops the repeated events.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest

from tests.crash.test_relay_killed import NOBODY, add_tasks, check_order, event_count
from tests.suites.store_case import read
from tests.support.brokers.cases import CASES, BrokerCase
from tests.support.brokers.readers import Kept
from tests.support.callback_senders import SECRETS, Delivery, Senders
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.deployment import HOMING, PAUSE, SOON, Server, server
from tests.support.recording_hook import RecordedCall
from tracker.model.event import sequence_of

LIVES = 2
TWICE_KEPT_ONCE = {"jetstream"}


@pytest.fixture(params=CASES)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[BrokerCase]:
    async with CASES[request.param]() as case:
        yield case


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


def settings(broker: BrokerCase, url: str) -> dict[str, str]:
    sinks = f"{broker.address}?{broker.options}#name=broker&from=beginning"
    return {"database_url": url, "sinks": sinks, "log_level": "warning", **SECRETS}


async def test_kill_before_record_repeats_confirmed_events(broker: BrokerCase, url: str, tmp_path: Path) -> None:
    chance = Random(6)
    story = await add_tasks(url)
    part = len(story) // LIVES
    left: Sequence[Delivery] = []
    fatal: set[str] = set()
    async with server(tmp_path, NOBODY, **settings(broker, url)) as homing:
        senders = Senders(port=homing.port)
        for life in range(LIVES):
            left = [*left, *story[life * part : (life + 1) * part]]
            homing.begin("--policy", "silent", "--unmarked", str(chance.randint(1, 12)))
            left = await until_dead(homing, senders, left)
            unrecorded = unmarked(await broker.read(), url)
            assert unrecorded, "the server died after it published an event"
            fatal |= unrecorded
        await homing.start("--policy", "silent")
        await senders.insist(left)
        await all_delivered(broker, url)
    check(broker, await broker.read(), fatal, url)


async def test_kill_before_confirm_repeats_published_events(broker: BrokerCase, url: str, tmp_path: Path) -> None:
    story = await add_tasks(url)
    half = len(story) // 2
    async with server(tmp_path, NOBODY, **settings(broker, url)) as homing:
        await homing.start(program=HOMING)
        await Senders(port=homing.port).insist(story[:half])

        async def written() -> bool:
            return not unwritten(url)

        await until(written, within=60)
        broker.line.mute()
        await Senders(port=homing.port).insist(story[half:])

        async def published() -> bool:
            return bool(unmarked(await broker.read(), url))

        await until(published, within=60)
        homing.kill()
        await homing.dead()
        fatal = unmarked(await broker.read(), url)
        assert fatal
        await homing.start("--policy", "silent")
        await all_delivered(broker, url)
    check(broker, await broker.read(), fatal, url)


async def until_dead(homing: Server, senders: Senders, left: Sequence[Delivery]) -> Sequence[Delivery]:
    """Send until the server dies, and return the callbacks that it did not acknowledge."""
    async with asyncio.timeout(60):
        while homing.lives[-1].poll() is None:
            left = await senders.send(left)
            await asyncio.sleep(SOON)
    await homing.dead()
    return left


def unwritten(url: str) -> set[tuple[str, int]]:
    """Return the events, as task and sequence, whose delivery is not recorded."""
    beyond = "SELECT id, task_id, sequence FROM events WHERE id > (SELECT cursor FROM sinks WHERE name = 'broker')"
    return {(task_id, sequence_of(number, version)) for number, task_id, version in read(url, beyond)}


def unmarked(kept: Sequence[Kept], url: str) -> set[str]:
    """Return the IDs of the events that a broker has and that are not recorded."""
    missing = unwritten(url)
    return {each.id for each in kept if (each.task, int(each.sequence)) in missing}


async def all_delivered(broker: BrokerCase, url: str) -> None:
    """Wait until the broker has every event and Homing has recorded that. Before that, a repeat can still arrive."""

    async def complete() -> bool:
        return not unwritten(url) and len({kept.id for kept in await broker.read()}) == event_count(url)

    await until(complete, within=60, pause=PAUSE)


def check(broker: BrokerCase, kept: Sequence[Kept], fatal: set[str], url: str) -> None:
    times = Counter(each.id for each in kept)
    if broker.name in TWICE_KEPT_ONCE:
        assert set(times.values()) == {1}
    else:
        assert all(times[each] > 1 for each in fatal), "the killed server published the event without recording it"
    check_order([RecordedCall(id=each.id, subject=each.task, sequence=int(each.sequence), pid=0) for each in kept], url)
