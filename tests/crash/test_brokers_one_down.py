"""Four brokers at once, callbacks coming in steadily, and one of them goes away: the other three notice nothing.

While it is away they get each event, and it gets all of them when it is back, in order per task. NATS and Redis are
killed and started again on what they kept; the lines to the other two are cut. By night all four go in turn, for a
minute each, and it is measured how far behind that leaves the others; by day NATS goes for a moment, and it counts that
the others get everything meanwhile.
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
from tests.support.databases import sqlite_url
from tests.support.deployment import HOMING, PAUSE, Server, server
from tests.support.homing_server import until
from tracker.model import event_numbers
from tracker.storage.store import Store

MOMENT: Final = 2.0
MINUTE: Final = 60.0
# Callbacks a second, in so many portions.
RATE = 150
PORTIONS = 10
# As long as it may take until a broker that is back is looked for, and everything around that.
LIMIT = 60 + 2 * MINUTE
# What steady work may leave untold at any moment, in seconds.
CALM = 1.0
# So many times as far behind as usual is too far; and how long it is looked what is usual, in seconds.
FAR = 10
# What is never too far, where the machine was quiet before.
LITTLE = 0.5
USUALLY = 2.0
# So many tasks are told of side by side.
BESIDE = 40
WORDS = ("submitted", "processing", "succeed")


@dataclass(slots=True, kw_only=True)
class Load:
    """Providers that send at a steady rate; ``left`` is what is to be sent."""

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
class Stage:
    homing: Server
    url: str
    brokers: Mapping[str, BrokerCase]
    seen: Mapping[str, Seen]

    async def sinks(self) -> dict[str, dict[str, Any]]:
        """Look at those of the brokers; that of the callers' callbacks is told nothing here."""
        shown = (await self.homing.client.get("/v1/sinks")).json()["sinks"]
        return {sink["name"]: sink for sink in shown if sink["name"] in CASES}

    def happened(self) -> set[Place]:
        found = read(self.url, "SELECT id, task_id, sequence FROM events")
        return {(task, event_numbers.sequence(number, version)) for number, task, version in found}

    async def begun(self) -> bool:
        return len(self.happened()) > RATE

    async def calm(self) -> bool:
        sinks = (await self.sinks()).values()
        return not any(sink["failures"] or sink["pending"] or (sink["lag"] or 0) > CALM for sink in sinks)

    async def all_seen(self, *names: str) -> None:
        """Wait until these have all that has happened by now."""
        happened = self.happened()
        assert happened

        async def complete() -> bool:
            assert not [seen.ended for seen in self.seen.values() if seen.ended]
            return all(happened <= set(self.seen[name].order) for name in names)

        await until(complete, within=LIMIT, pause=PAUSE)


BY_DAY = pytest.param(MOMENT, ("jetstream",))
BY_NIGHT = pytest.param(MINUTE, tuple(CASES), marks=[pytest.mark.nightly, pytest.mark.timeout(0)])


@pytest.mark.parametrize(("seconds", "going"), [BY_DAY, BY_NIGHT])
async def test_one_is_away_and_the_others_notice_nothing(tmp_path: Path, seconds: float, going: Sequence[str]) -> None:
    async with staged(tmp_path) as stage, loaded(stage, seconds * len(going)):
        await until(stage.begun, within=LIMIT)
        await stage.all_seen(*CASES)
        await until(stage.calm, within=LIMIT, pause=PAUSE)
        usual = mean(lag(sample, CASES) for sample in await sampled(stage, min(seconds, USUALLY)))
        for down in going:
            others = [name for name in CASES if name != down]
            # What was told and not confirmed before is told again, and done with.
            await until(stage.calm, within=LIMIT, pause=PAUSE)
            async with away(stage.brokers[down]):
                samples = await watched(stage, down, seconds)
                # However long it stays away.
                await stage.all_seen(*others)
                at_last = (await stage.sinks())[down]
            lags = [lag(sample, others) for sample in samples]
            back_at = asyncio.get_running_loop().time()
            await stage.all_seen(*CASES)
            caught_up = asyncio.get_running_loop().time() - back_at
            told = (
                f"{at_last['lag']:.1f} s behind, the others {max(lags):.2f} s at most; all told after {caught_up:.1f} s"
            )
            sys.stdout.write(f"{down} away: {told}\n")
            assert at_last["state"] == "failing"
            assert {sample[name]["state"] for sample in samples for name in others} == {"on"}
            assert {sample[name]["failures"] for sample in samples for name in others} == {0}
            if seconds == MINUTE:
                # The machine may have had its moments, but neither often nor for as long as the broker was away.
                assert median(lags) < max(FAR * usual, LITTLE)
                assert max(lags) < at_last["lag"]
    for name, seen in stage.seen.items():
        assert set(seen.order) == stage.happened(), name
        assert seen.out_of_order() == [], name
        assert len(seen.places) == len(seen.order), name


async def watched(stage: Stage, down: str, seconds: float) -> Sequence[dict[str, dict[str, Any]]]:
    """Look at the sinks for as long as one is away, from when that is known."""

    async def noticed() -> bool:
        return bool((await stage.sinks())[down]["failures"])

    await until(noticed, within=LIMIT)
    return await sampled(stage, seconds)


def lag(sample: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> float:
    """Return how far behind the last of these is, in seconds."""
    return max(sample[name]["lag"] or 0.0 for name in names)


async def sampled(stage: Stage, seconds: float) -> Sequence[dict[str, dict[str, Any]]]:
    samples = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        samples.append(await stage.sinks())
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
async def staged(folder: Path) -> AsyncIterator[Stage]:
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
        yield Stage(homing=homing, url=url, brokers=brokers, seen=seen)


@asynccontextmanager
async def loaded(stage: Stage, seconds: float) -> AsyncIterator[None]:
    """Send callbacks all the time; at the end wait until all that happened was seen everywhere.

    There is enough to send for outages of so many ``seconds`` in all.
    """
    load = Load(senders=Senders(port=stage.homing.port, count=4), left=await written_down(stage.url, seconds))
    running = asyncio.create_task(load.run())
    try:
        yield
        load.stopping.set()
        await running
        await stage.all_seen(*CASES)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def written_down(url: str, seconds: float) -> list[Delivery]:
    """Add tasks that are waited for, enough for some time around each outage; give their story, its end first."""
    count = int(RATE * (2 * seconds + 10) / len(WORDS))
    store = Store(url)
    await store.open()
    story: list[Delivery] = []
    for first in range(1, count, BESIDE):
        made = tasks(first, BESIDE)
        await store.apply([writing(task) for task in made])
        told = [deliveries(task, WORDS) for task in made]
        story += [each[at] for at in range(len(WORDS)) for each in told]
    await store.close()
    return story[::-1]
