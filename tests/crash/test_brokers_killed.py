"""SIGKILL between a broker's having an event and that being written down: it comes again, with the same id, in order.

JetStream keeps one message of each id; whoever drops what he has seen reads one from the others.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest

from tests.crash.test_relay_killed import NOBODY, event_count, told_in_order, written_down
from tests.suites.store_case import read
from tests.support.brokers.cases import CASES, BrokerCase
from tests.support.brokers.readers import Kept
from tests.support.callback_senders import SECRETS, Delivery, Senders
from tests.support.databases import sqlite_url
from tests.support.deployment import HOMING, PAUSE, SOON, Server, server
from tests.support.homing_server import until
from tests.support.recording_hook import RecordedCall
from tracker.model import event_numbers

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
    sinks = f"{broker.address}?{broker.options}#name=told&from=beginning"
    return {"database_url": url, "sinks": sinks, "log_level": "warning", **SECRETS}


async def test_what_was_confirmed_and_not_written_down_comes_again(
    broker: BrokerCase, url: str, tmp_path: Path
) -> None:
    chance = Random(6)
    story = await written_down(url)
    part = len(story) // LIVES
    left: Sequence[Delivery] = []
    fatal: set[str] = set()
    async with server(tmp_path, NOBODY, **settings(broker, url)) as homing:
        senders = Senders(port=homing.port)
        for life in range(LIVES):
            left = [*left, *story[life * part : (life + 1) * part]]
            homing.begin("--policy", "silent", "--unmarked", str(chance.randint(1, 12)))
            left = await until_dead(homing, senders, left)
            told = unmarked(await broker.read(), url)
            assert told, "it died of what it had told"
            fatal |= told
        await homing.start("--policy", "silent")
        await senders.insist(left)
        await all_told(broker, url)
    check(broker, await broker.read(), fatal, url)


async def test_what_was_published_and_never_confirmed_comes_again(broker: BrokerCase, url: str, tmp_path: Path) -> None:
    story = await written_down(url)
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
        await all_told(broker, url)
    check(broker, await broker.read(), fatal, url)


async def until_dead(homing: Server, senders: Senders, left: Sequence[Delivery]) -> Sequence[Delivery]:
    """Send until the server dies; give what it did not acknowledge."""
    async with asyncio.timeout(60):
        while homing.lives[-1].poll() is None:
            left = await senders.send(left)
            await asyncio.sleep(SOON)
    await homing.dead()
    return left


def unwritten(url: str) -> set[tuple[str, int]]:
    """Return the events, as task and sequence, whose delivery is not recorded."""
    beyond = "SELECT id, task_id, sequence FROM events WHERE id > (SELECT cursor FROM sinks WHERE name = 'told')"
    return {(task_id, event_numbers.sequence(number, version)) for number, task_id, version in read(url, beyond)}


def unmarked(kept: Sequence[Kept], url: str) -> set[str]:
    """Return the IDs of the events that a broker has and that are not recorded."""
    missing = unwritten(url)
    return {each.id for each in kept if (each.task, int(each.sequence)) in missing}


async def all_told(broker: BrokerCase, url: str) -> None:
    """Wait until it has every event and that is written down: before, what comes again may still be to come."""

    async def told() -> bool:
        return not unwritten(url) and len({kept.id for kept in await broker.read()}) == event_count(url)

    await until(told, within=60, pause=PAUSE)


def check(broker: BrokerCase, kept: Sequence[Kept], fatal: set[str], url: str) -> None:
    times = Counter(each.id for each in kept)
    if broker.name in TWICE_KEPT_ONCE:
        assert set(times.values()) == {1}
    else:
        assert all(times[each] > 1 for each in fatal), "whoever died had told it, and nobody knew"
    told_in_order(
        [RecordedCall(id=each.id, subject=each.task, sequence=int(each.sequence), pid=0) for each in kept], url
    )
