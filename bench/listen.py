"""Sends callbacks at a steady rate to waiting clients, in a separate process like ``load``.

``python -m bench.listen`` reads a Plan as one line of JSON and writes its Latencies as one. One connection reads
the event stream. Every tenth callback has its own long poll, which is open before the callback is sent.
"""

import asyncio
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

from bench import apart, deliveries
from bench.load import whole
from bench.results import Broken

CONNECTIONS: Final = 32
CALLBACKS_PER_POLL: Final = 10
LEAD_SECONDS: Final = 0.5
MAX_LATE_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 30
MAX_ANSWER_BYTES: Final = 1 << 20
EVENT_ID: Final = re.compile(rb'"id":"([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Send ``count`` callbacks from position ``first`` on, ``per_second``. ``key`` is the API key."""

    port: int
    key: str
    first: int
    count: int
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """The milliseconds from the answer to a callback until its change was seen. ``missed`` were never seen."""

    stream_p50_ms: float
    stream_p99_ms: float
    poll_p50_ms: float
    poll_p99_ms: float
    missed: int


def run(plan: Plan) -> Latencies:
    """Run the measurement in a separate process."""
    return apart.ask("bench.listen", plan, Latencies, within=plan.count / plan.per_second * 2 + 120)


class Line:
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the whole answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=MAX_ANSWER_BYTES)
        reader, writer = self._streams
        writer.write(request)
        received = b""
        while not whole(received):
            piece = await reader.read(MAX_ANSWER_BYTES)
            if not piece:
                raise Broken(f"the server hung up after {received[:100]!r}")
            received += piece
        if not received.startswith(b"HTTP/1.1 200"):
            raise Broken(f"answered {received[:300]!r}")
        return received


class _Listening:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answered: dict[str, float] = {}
        self._streamed: dict[str, float] = {}
        self._polled: dict[str, float] = {}
        self._free = asyncio.Queue[Line]()
        for _ in range(CONNECTIONS):
            self._free.put_nowait(Line(plan.port))
        self._idle: list[Line] = []
        self._connected = asyncio.Event()
        self._complete = asyncio.Event()

    async def run(self) -> Latencies:
        plan = self._plan
        requests = deliveries.requests(plan.first, plan.count, now=datetime.now(UTC))
        subscriber = asyncio.create_task(self._subscribe())
        connected = asyncio.create_task(self._connected.wait())
        await asyncio.wait({subscriber, connected}, return_when=asyncio.FIRST_COMPLETED, timeout=MAX_LATE_SECONDS)
        if not self._connected.is_set():
            raise Broken("the event stream did not begin")
        began = perf_counter() + LEAD_SECONDS
        async with asyncio.TaskGroup() as sending:
            for number, request in enumerate(requests):
                place, at = plan.first + number, began + number / plan.per_second
                if number % CALLBACKS_PER_POLL == 0:
                    await _until(at - LEAD_SECONDS)
                    sending.create_task(self._poll(place))
                sending.create_task(self._send(place, request, at))
        with suppress(TimeoutError):  # missing events are counted
            await asyncio.wait_for(self._complete.wait(), MAX_LATE_SECONDS)
        subscriber.cancel()
        return self._latencies()

    async def _send(self, place: int, request: bytes, at: float) -> None:
        await _until(at)
        with self._line_of(await self._free.get()) as line:
            await line.ask(request)
        self._answered[_event_of(place)] = perf_counter()

    async def _poll(self, place: int) -> None:
        number, step = deliveries.place_of(place)
        line = self._idle.pop() if self._idle else Line(self._plan.port)
        target = f"/v1/tasks/{deliveries.task_id(number)}?wait={WAIT_SECONDS}&version={step + 1}"
        await line.ask(self._get(target))
        self._polled[_event_of(place)] = perf_counter()
        self._idle.append(line)

    async def _subscribe(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._plan.port, limit=MAX_ANSWER_BYTES)
        writer.write(self._get("/v1/events", accept="text/event-stream"))
        if b" 200 " not in await reader.readline():
            raise Broken("the event stream is refused")
        self._connected.set()
        while line := await reader.readline():
            if line.startswith(b"data:") and (found := EVENT_ID.search(line)):
                self._streamed[found[1].decode()] = perf_counter()
                if len(self._streamed) == self._plan.count:
                    self._complete.set()

    def _get(self, target: str, accept: str = "application/json") -> bytes:
        fields = f"host: 127.0.0.1\r\naccept: {accept}\r\nauthorization: Bearer {self._plan.key}"
        return f"GET {target} HTTP/1.1\r\n{fields}\r\n\r\n".encode()

    @contextmanager
    def _line_of(self, line: Line) -> Iterator[Line]:
        yield line
        self._free.put_nowait(line)

    def _latencies(self) -> Latencies:
        streamed = self._delays(self._streamed)
        polled = self._delays(self._polled)
        return Latencies(
            stream_p50_ms=_percentile(streamed, 0.5),
            stream_p99_ms=_percentile(streamed, 0.99),
            poll_p50_ms=_percentile(polled, 0.5),
            poll_p99_ms=_percentile(polled, 0.99),
            missed=len(self._answered) - len(streamed),
        )

    def _delays(self, seen: dict[str, float]) -> list[float]:
        return sorted(max(0.0, seen[name] - at) * 1000 for name, at in self._answered.items() if name in seen)


def _event_of(place: int) -> str:
    number, step = deliveries.place_of(place)
    return f"{deliveries.task_id(number)}-{step + 2}"


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - perf_counter()))


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


def main() -> None:
    apart.answer(Plan, lambda plan: _Listening(plan).run())


if __name__ == "__main__":
    main()
