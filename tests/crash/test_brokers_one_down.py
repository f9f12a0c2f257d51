"""Four brokers under a steady load of callbacks: an outage of one does not affect the other three.

During the outage the others get each event. After it, the broker gets all events, in order per task. The test kills
and restarts NATS and Redis, and cuts the connections to the other two. The nightly run stops each of the four for a
minute and measures the lag of the others. The default run stops NATS for a moment, and checks that the others get
everything meanwhile.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import pytest

from tests.crash.test_relay_killed import NOBODY
from tests.suites.store_case import read
from tests.support.brokers.cases import CASES, BrokerCase
from tests.support.brokers.consumers import Place, Seen, consuming
from tests.support.builders import writing
from tests.support.callback_senders import SECRETS, Delivery, Senders, deliveries, tasks
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.deployment import HOMING, PAUSE, Server, server
from tracker.model.event import sequence_of
from tracker.storage.store import Store

MOMENT: Final = 2.0
MINUTE: Final = 60.0
# Callbacks per second, and in how many portions the test sends them.
RATE = 150
PORTIONS = 10
# The time until the relay probes a recovered broker, with a margin.
LIMIT = 60 + 2 * MINUTE
# The largest lag under a steady load, in seconds.
CALM = 1.0
# The largest allowed lag, as a multiple of the usual lag.
FAR = 10
# A lag in seconds that is always allowed, and how many seconds the usual lag is measured.
LITTLE = 0.5
USUALLY = 2.0
# How many tasks progress side by side.
BESIDE = 40
STATUSES = ("submitted", "processing", "succeed")


@dataclass(slots=True, kw_only=True)
class Load:
    """Providers that send callbacks at a steady rate. ``left`` has the callbacks to send."""

    senders: Senders
    left: list[Delivery]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        again: list[Delivery] = []
        while not self.stopping.is_set():
            next_at = loop.time() + 1 / PORTIONS
            portion = [*again, *(self.left.pop() for _ in range(RATE // PORTIONS) if self.left)]
            again = await self.senders.send(portion)
            await asyncio.sleep(max(next_at - loop.time(), 0))
        await self.senders.insist(again)


@dataclass(slots=True, kw_only=True)
class BrokerHarness:
    """A running Homing with four brokers, and a consumer of each."""

    homing: Server
    url: str
    brokers: Mapping[str, BrokerCase]
    seen: Mapping[str, Seen]

    async def sinks(self) -> dict[str, dict[str, Any]]:
        """Return the broker sinks. The sink of the client callbacks gets nothing here."""
        shown = (await self.homing.client.get("/v1/sinks")).json()["sinks"]
        return {sink["name"]: sink for sink in shown if sink["name"] in CASES}

    def happened(self) -> set[Place]:
        found = read(self.url, "SELECT id, task_id, sequence FROM events")
        return {(task, sequence_of(number, version)) for number, task, version in found}

    async def begun(self) -> bool:
        return len(self.happened()) > RATE

    async def calm(self) -> bool:
        sinks = (await self.sinks()).values()
        return not any(sink["failures"] or sink["pending"] or (sink["lag"] or 0) > CALM for sink in sinks)

    async def all_seen(self, *names: str) -> None:
        """Wait until these brokers have all events up to now."""
        happened = self.happened()
        assert happened

        async def complete() -> bool:
            assert not [seen.ended for seen in self.seen.values() if seen.ended]
            return all(happened <= set(self.seen[name].order) for name in names)

        await until(complete, within=LIMIT, pause=PAUSE)


BY_DAY = pytest.param(MOMENT, ("jetstream",))
BY_NIGHT = pytest.param(MINUTE, tuple(CASES), marks=[pytest.mark.nightly, pytest.mark.timeout(0)])


@pytest.mark.parametrize(("seconds", "going"), [BY_DAY, BY_NIGHT])
async def test_broker_outage_does_not_affect_others(tmp_path: Path, seconds: float, going: Sequence[str]) -> None:
    async with broker_harness(tmp_path) as harness, under_load(harness, seconds * len(going)):
        await until(harness.begun, within=LIMIT)
        await harness.all_seen(*CASES)
        await until(harness.calm, within=LIMIT, pause=PAUSE)
        usual = mean(lag(sample, CASES) for sample in await sampled(harness, min(seconds, USUALLY)))
        for down in going:
            others = [name for name in CASES if name != down]
            # Wait until the unconfirmed events of the last outage are delivered again.
            await until(harness.calm, within=LIMIT, pause=PAUSE)
            async with away(harness.brokers[down]):
                samples = await watched(harness, down, seconds)
                # The outage lasts until the others have everything.
                await harness.all_seen(*others)
                at_last = (await harness.sinks())[down]
            lags = [lag(sample, others) for sample in samples]
            back_at = asyncio.get_running_loop().time()
            await harness.all_seen(*CASES)
            caught_up = asyncio.get_running_loop().time() - back_at
            summary = (
                f"lag {at_last['lag']:.1f} s, of the others {max(lags):.2f} s at most; "
                f"all delivered after {caught_up:.1f} s"
            )
            sys.stdout.write(f"{down} away: {summary}\n")
            assert at_last["state"] == "failing"
            assert {sample[name]["state"] for sample in samples for name in others} == {"on"}
            assert {sample[name]["failures"] for sample in samples for name in others} == {0}
            if seconds == MINUTE:
                # Short pauses of the machine are allowed, but not often, and not as long as the outage.
                assert median(lags) < max(FAR * usual, LITTLE)
                assert max(lags) < at_last["lag"]
    for name, seen in harness.seen.items():
        assert set(seen.order) == harness.happened(), name
        assert seen.out_of_order() == [], name
        assert len(seen.places) == len(seen.order), name


async def watched(harness: BrokerHarness, down: str, seconds: float) -> Sequence[dict[str, dict[str, Any]]]:
    """Sample the sinks during an outage, after Homing has noticed it."""

    async def noticed() -> bool:
        return bool((await harness.sinks())[down]["failures"])

    await until(noticed, within=LIMIT)
    return await sampled(harness, seconds)


def lag(sample: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> float:
    """Return the largest lag of these sinks, in seconds."""
    return max(sample[name]["lag"] or 0.0 for name in names)


async def sampled(harness: BrokerHarness, seconds: float) -> Sequence[dict[str, dict[str, Any]]]:
    samples = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        samples.append(await harness.sinks())
        await asyncio.sleep(PAUSE)
    return samples


@asynccontextmanager
async def away(broker: BrokerCase) -> AsyncIterator[None]:
    if broker.server is None:
        broker.line.refuse()
    else:
        broker.server.kill()
    yield
    if broker.server is None:
        await broker.line.listen()
    else:
        await asyncio.to_thread(broker.server.start)


@asynccontextmanager
async def broker_harness(folder: Path) -> AsyncIterator[BrokerHarness]:
    url = sqlite_url(folder)
    async with AsyncExitStack() as stack:
        brokers = {name: await stack.enter_async_context(make()) for name, make in CASES.items()}
        sinks = " ".join(
            f"{broker.address}?{'&'.join(filter(None, (broker.options, 'timeout=2')))}#name={name}"
            for name, broker in brokers.items()
        )
        homing = await stack.enter_async_context(
            server(folder, NOBODY, database_url=url, sinks=sinks, **SECRETS, log_level="warning")
        )
        await homing.start(program=HOMING)
        seen = {name: await stack.enter_async_context(consuming(broker)) for name, broker in brokers.items()}
        yield BrokerHarness(homing=homing, url=url, brokers=brokers, seen=seen)


@asynccontextmanager
async def under_load(harness: BrokerHarness, seconds: float) -> AsyncIterator[None]:
    """Send callbacks all the time. At the end, wait until each broker has all events.

    There are enough callbacks for outages of ``seconds`` in total.
    """
    load = Load(senders=Senders(port=harness.homing.port, count=4), left=await add_tasks(harness.url, seconds))
    running = asyncio.create_task(load.run())
    try:
        yield
        load.stopping.set()
        await running
        await harness.all_seen(*CASES)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def add_tasks(url: str, seconds: float) -> list[Delivery]:
    """Add open tasks, enough for some time around each outage. Return their callbacks, the last one first."""
    count = int(RATE * (2 * seconds + 10) / len(STATUSES))
    store = Store(url)
    await store.open()
    story: list[Delivery] = []
    for first in range(1, count, BESIDE):
        made = tasks(first, BESIDE)
        await store.apply([writing(task) for task in made])
        stories = [deliveries(task, STATUSES) for task in made]
        story += [each[at] for at in range(len(STATUSES)) for each in stories]
    await store.close()
    return story[::-1]
