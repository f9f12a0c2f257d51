"""Sends callbacks at a steady rate and reads their events with a JetStream consumer, in a process like ``load``.

``python -m bench.consume`` reads a Plan as one line of JSON and writes a Read as one.
"""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import NotFoundError

from bench import apart, deliveries
from bench.listen import Line

CONNECTIONS: Final = 32
LEAD_SECONDS: Final = 0.5
MAX_LATE_SECONDS: Final = 10.0
STREAM: Final = "HOMING"
SUBJECTS: Final = "homing.>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Send ``count`` callbacks from position ``first`` on, ``per_second``. ``nats`` is the port of the broker."""

    port: int
    nats: int
    first: int
    count: int
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The milliseconds from the answer to a callback until its event was read. ``missed`` events were never read."""

    p50_ms: float
    p99_ms: float
    missed: int


def run(plan: Plan) -> Read:
    """Run the measurement in a separate process."""
    return apart.ask("bench.consume", plan, Read, within=plan.count / plan.per_second * 2 + 120)


class _Consuming:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answered: dict[str, float] = {}
        self._read: dict[str, float] = {}
        self._free = asyncio.Queue[Line]()
        for _ in range(CONNECTIONS):
            self._free.put_nowait(Line(plan.port))
        self._complete = asyncio.Event()

    async def run(self) -> Read:
        plan = self._plan
        requests = deliveries.requests(plan.first, plan.count, now=datetime.now(UTC))
        client = await nats.connect(f"nats://127.0.0.1:{plan.nats}")
        try:
            await _have_stream(client.jetstream())
            wanted = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW)
            await client.jetstream().subscribe(SUBJECTS, stream=STREAM, config=wanted, cb=self._take)
            began = perf_counter() + LEAD_SECONDS
            async with asyncio.TaskGroup() as sending:
                for number, request in enumerate(requests):
                    at = began + number / plan.per_second
                    await asyncio.sleep(at - LEAD_SECONDS - perf_counter())
                    sending.create_task(self._send(plan.first + number, request, at))
            with suppress(TimeoutError):  # missing events are counted
                await asyncio.wait_for(self._complete.wait(), MAX_LATE_SECONDS)
        finally:
            await client.close()
        return self._latencies()

    async def _send(self, place: int, request: bytes, at: float) -> None:
        await asyncio.sleep(at - perf_counter())
        line = await self._free.get()
        await line.ask(request)
        self._free.put_nowait(line)
        number, step = deliveries.place_of(place)
        self._answered[f"{deliveries.task_id(number)}-{step + 2}"] = perf_counter()

    async def _take(self, message: Msg) -> None:
        assert message.headers is not None
        self._read[message.headers["ce-id"]] = perf_counter()
        if len(self._read) == self._plan.count:
            self._complete.set()

    def _latencies(self) -> Read:
        delays = sorted(
            max(0.0, self._read[name] - at) * 1000 for name, at in self._answered.items() if name in self._read
        )
        return Read(
            p50_ms=_percentile(delays, 0.5),
            p99_ms=_percentile(delays, 0.99),
            missed=self._plan.count - len(delays),
        )


async def _have_stream(context: JetStreamContext) -> None:
    """Create the stream as Homing creates it with its first event."""
    try:
        await context.stream_info(STREAM)
    except NotFoundError:
        await context.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECTS]))


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(len(ordered) * share) - 1] if ordered else math.inf


def main() -> None:
    apart.answer(Plan, lambda plan: _Consuming(plan).run())


if __name__ == "__main__":
    main()
