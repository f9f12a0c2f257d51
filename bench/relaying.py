"""The rate at which the relay delivers a backlog to each kind of sink, and the delay until a consumer sees a change."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from types import MappingProxyType
from typing import Final

from bench import apart, brokers, consume, deliveries, servers, subjects
from bench.brokers import BROKERS
from bench.databases import Databases
from bench.results import Broken, Row
from bench.rounds import Effort, say
from homing.serve import relay_of
from homing.server.process import tune_garbage_collection
from tracker.app import create_tracker, sinks_of
from tracker.model.sinks import SinkState
from tracker.service.tracker import Tracker
from tracker.settings import load_settings

EVENTS: Final = 20_000
CONNECTIONS: Final = 64
# In events or callbacks per second. A slower run fails.
MIN_RATE: Final = 500
# Reading the progress slows the relay down, because it counts the events ahead.
CHECK_SECONDS: Final = 0.02
RARE_CHECK_SECONDS: Final = 0.2
# A function in the same process that accepts every event and does nothing.
FUNCTION_SINK: Final = "python:bench.nothing:take"
MIN_RATES: Final[Mapping[str, float]] = MappingProxyType(
    {"jetstream": 5_000, "redis": 5_000, "kafka": 3_000, "rabbitmq": 3_000}
)
PER_SECOND: Final = 500.0
SECONDS: Final = 6.0
ROUNDS: Final = 2


def rates(databases: Databases, folder: Path) -> Iterator[Row]:
    """Measure the rate at which one process delivers a backlog, until all events are confirmed and recorded."""
    with subjects.homing(databases, folder, name="relay", tasks=deliveries.tasks_for(EVENTS)) as subject:
        subject.send(connections=CONNECTIONS, seconds=EVENTS / MIN_RATE, count=EVENTS)
        subject.verify()
        url = subject.url
    speed = _relay_all(url, "process", FUNCTION_SINK)
    yield _row(databases, "relay_events_per_s", "a function in the same process", speed, must=5_000)
    for kind, running in BROKERS.items():
        if kind == "rabbitmq" and not brokers.answers(brokers.RABBITMQ_PORT):
            say(f"{kind}: skipped, no server at {brokers.LOCALHOST}:{brokers.RABBITMQ_PORT}")
            continue
        with running() as broker:
            speed = _relay_all(url, kind, broker.address)
            held = asyncio.run(broker.count(EVENTS))
        if held != EVENTS:
            raise Broken(f"{kind}: {EVENTS} events were confirmed, but there are {held}")
        yield _row(databases, f"relay_{kind}_per_s", kind, speed, must=MIN_RATES[kind])


def latency(databases: Databases, folder: Path, effort: Effort) -> Iterator[Row]:
    """Measure the delay from the answer to a callback until a JetStream consumer has the event."""
    count = int(PER_SECOND * SECONDS)
    rounds = min(effort.rounds, ROUNDS)
    tasks = deliveries.tasks_for(count * (rounds + 1))
    read = []
    with (
        brokers.jetstream() as broker,
        subjects.homing(databases, folder, name="consumed", tasks=tasks, sinks=broker.address) as subject,
    ):
        for number in range(rounds + 1):
            plan = consume.Plan(
                port=subject.server.port, nats=broker.port, first=subject.place, count=count, per_second=PER_SECOND
            )
            outcome = consume.run(plan)
            subject.place += count
            if outcome.missed:
                raise Broken(f"{databases.name}: {outcome.missed} of {count} events were never read")
            say(f"{databases.name}: JetStream consumer p50 {outcome.p50_ms:.1f} ms, p99 {outcome.p99_ms:.1f} ms")
            if number:  # the first warms up
                read.append(outcome)
    yield Row(
        key=_key(databases, "jetstream_p99_ms"),
        what=f"p99 from answer to JetStream consumer, {databases.name}, {PER_SECOND:.0f} callbacks/s",
        rounds=[one.p99_ms for one in read],
        unit="ms",
        must=50,
        note=f"p50 {read[0].p50_ms:.1f} ms",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The database whose events are delivered, and the name and the URL of the sink."""

    url: str
    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySpeed:
    """The time of a relay for all events, and the processor time of it, which does not include waiting."""

    seconds: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return EVENTS / self.seconds

    @property
    def processor(self) -> str:
        return f"{self.processor_seconds / EVENTS * 1e6:.0f} µs of processor each"


def _row(databases: Databases, key: str, receiver: str, speed: RelaySpeed, *, must: float) -> Row:
    say(f"{databases.name}: {receiver}: {speed.per_second:,.0f} events/s, {speed.processor}")
    return Row(
        key=_key(databases, key),
        what=f"relay to {receiver}, one process, a backlog of {EVENTS:,} events, {databases.name}",
        rounds=[speed.per_second],
        unit="/s",
        must=must,
        more=True,
        note=speed.processor,
    )


def _key(databases: Databases, key: str) -> str:
    return key if databases.name == "sqlite" else f"{key}_{databases.name}"


def _relay_all(url: str, name: str, address: str) -> RelaySpeed:
    """Run a relay with one sink from the first event, and return how long it took."""
    return apart.ask(
        "bench.relaying", Plan(url=url, name=name, address=address), RelaySpeed, within=EVENTS / MIN_RATE + 120
    )


async def _relay(plan: Plan) -> RelaySpeed:
    options = f"name={plan.name}&from=beginning"
    environ = servers.homing_settings(plan.url, sinks=f"{plan.address}#{options}")
    settings = load_settings(environ=environ, env_file=None)
    async with create_tracker(settings) as tracker:
        stop = asyncio.Event()
        # The same setup as in a server process.
        tune_garbage_collection()
        relaying = asyncio.create_task(relay_of(tracker, sinks_of(settings, tracker)).run(stop))
        try:
            # Processes that share a database scan for deliveries at different times.
            await _until(tracker, plan.name, lambda state: state.owner is not None, every=CHECK_SECONDS)
            began, used = tracker.clock(), process_time()
            state = await _until(tracker, plan.name, lambda state: state.delivered >= EVENTS, every=RARE_CHECK_SECONDS)
            assert state.delivered_at is not None
            seconds = (state.delivered_at - began).total_seconds()
            speed = RelaySpeed(seconds=seconds, processor_seconds=process_time() - used)
        finally:
            stop.set()
            await relaying
    if state.waiting or state.dead:
        raise Broken(f"{plan.name}: {state.waiting} deliveries pending, {state.dead} dead letters: {state.last_error}")
    return speed


async def _until(tracker: Tracker, name: str, reached: Callable[[SinkState], bool], *, every: float) -> SinkState:
    """Read the state of the sink repeatedly, and return it once the condition holds."""
    until = perf_counter() + EVENTS / MIN_RATE
    while True:
        for state in await tracker.store.sinks.states():
            if state.name == name and reached(state):
                return state
            if state.name == name and perf_counter() > until:
                raise Broken(f"{name}: {state.delivered} of {EVENTS} events delivered in time: {state.last_error}")
        await asyncio.sleep(every)


if __name__ == "__main__":
    apart.answer(Plan, _relay)
