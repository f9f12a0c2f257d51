"""The load generator. It is a separate, small process, because it shares the processor with the server.

``python -m bench.load`` reads a Plan as one line of JSON and creates all requests before the clock starts. It keeps
``connections`` connections busy, each with one request at a time. It writes an Outcome as one line of JSON.
"""

import asyncio
import gc
import math
import resource
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Final, cast

from bench import apart, deliveries

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "
STATUS: Final = slice(9, 12)
MAX_OPEN_FILES: Final = 16_384
EXTRA_SECONDS: Final = 30.0
# How long a disconnected client waits before it connects again.
RECONNECT_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests: ``count`` callbacks from position ``first`` on, for ``seconds`` or until all are answered.

    With ``reconnect``, the server may disconnect clients.
    """

    port: int
    connections: int
    seconds: float
    first: int
    count: int
    reconnect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result. ``statuses`` counts the answers by HTTP status, ``lost`` the requests without an answer."""

    seconds: float
    statuses: dict[str, int]
    lost: int
    p50_ms: float
    p99_ms: float

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    @property
    def acknowledged(self) -> int:
        return self.statuses.get("200", 0)

    @property
    def per_second(self) -> float:
        return self.acknowledged / self.seconds


def run(plan: Plan) -> Outcome:
    """Run the generator in a separate process and return its result."""
    return apart.ask("bench.load", plan, Outcome, within=plan.seconds * 2 + 120)


class _Load:
    """The requests still to send and the answers so far."""

    def __init__(self, plan: Plan, requests: Iterator[bytes]) -> None:
        self.plan = plan
        self.requests = requests
        self.latencies = array("d")
        self.statuses: Counter[str] = Counter()
        self.lost = 0
        self.until = 0.0
        self.last = 0.0
        self.busy = 0
        self.ended = asyncio.Event()

    def take(self, now: float) -> bytes | None:
        """Return the next request, or None at the end."""
        return next(self.requests, None) if now < self.until else None

    def leave(self) -> None:
        self.busy -= 1
        if not self.busy:
            self.ended.set()


class _Connection(asyncio.Protocol):
    """One connection. It sends its next request after the answer to the previous one."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own type is not a subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, now: float) -> None:
        assert self._transport is not None
        if self._transport.is_closing():  # before it was used
            self._hung_up()
            return
        request = self._load.take(now)
        self._waiting = request is not None
        if request is None:
            self._transport.close()
            self._load.leave()
            return
        self._at = now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if not whole(received):
            self._received = received
            return
        self._received = b""
        now = perf_counter()
        load = self._load
        load.latencies.append(now - self._at)
        load.statuses[received[STATUS].decode()] += 1
        load.last = now
        self.send(now)

    def connection_lost(self, _: Exception | None) -> None:
        if self._waiting:
            self._waiting = False
            self._hung_up()

    def _hung_up(self) -> None:
        self._load.lost += 1
        if self._load.plan.reconnect:
            again = asyncio.get_running_loop().create_task(_connect_again(self._load))
            again.add_done_callback(lambda task: task.exception())
        else:
            self._load.leave()


async def _connect_again(load: _Load) -> None:
    await asyncio.sleep(RECONNECT_SECONDS)
    try:
        connection = await _connected(load)
    except OSError:
        load.leave()
    else:
        connection.send(perf_counter())


async def _connected(load: _Load) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(load), "127.0.0.1", load.plan.port
    )
    return connection


def whole(received: bytes) -> bool:
    """Return whether the received bytes are a whole answer with head and body."""
    head = received.find(HEAD_END)
    return head >= 0 and len(received) >= head + len(HEAD_END) + _length(received[:head])


def _length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(LENGTH) + len(LENGTH)
    return int(lower[at:].split(b"\r\n", 1)[0])


async def _measure(plan: Plan) -> Outcome:
    load = _Load(plan, iter(deliveries.requests(plan.first, plan.count, now=datetime.now(UTC))))
    gc.collect()
    gc.freeze()
    connections = [await _connected(load) for _ in range(plan.connections)]
    load.busy = len(connections)
    started = perf_counter()
    load.until = started + plan.seconds
    for connection in connections:
        connection.send(perf_counter())
    async with asyncio.timeout(plan.seconds + EXTRA_SECONDS):
        await load.ended.wait()
    latencies = sorted(load.latencies)
    return Outcome(
        seconds=load.last - started,
        statuses=dict(load.statuses),
        lost=load.lost,
        p50_ms=_share(latencies, 0.50) * 1000,
        p99_ms=_share(latencies, 0.99) * 1000,
    )


def _share(ordered: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    _allow_many_connections()
    apart.answer(Plan, _measure)


if __name__ == "__main__":
    main()
