"""The cost of a million finished tasks: the same requests to a large and to a small database."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Final

from bench import deliveries, load, servers
from bench.databases import Databases
from bench.grown import DUE, OPEN, client, grown
from bench.results import Broken, Row
from bench.rounds import say
from tracker.storage.store import Store

MANY: Final = 1_000_000
FEW: Final = 10_000
ROUNDS: Final = 9
REQUESTS: Final = 75
CLAIMS: Final = 15
LEASE: Final = timedelta(minutes=1)
PAGES: Final = {
    "of a status": "/v1/tasks?status=processing&limit=50",
    "of a client and a status": f"/v1/tasks?client={client(0)}&status=processing&limit=50",
    "of a client and two statuses": f"/v1/tasks?client={client(0)}&status=processing&status=succeeded&limit=50",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One kind of request, and the median milliseconds of each round: with many tasks and with few."""

    name: str
    many: Sequence[float]
    few: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        return [large / small for large, small in zip(self.many, self.few, strict=True)]

    def text(self) -> str:
        return f"{self.name}: {median(self.many):.2f} ms, with few {median(self.few):.2f} ms"


def measure(databases: Databases, folder: Path) -> Iterator[Row]:
    sizes = {}
    for count in (MANY, FEW):
        sizes[count] = grown(databases, count=count)
        say(f"{databases.name}: filled with {count:,} tasks")
    one, *pages = _over_http(sizes, folder)
    claim = asyncio.run(_claims(sizes))
    worst = max(pages, key=lambda page: median(page.ratios))
    yield _row("growth_get", databases, one, [one])
    yield _row("growth_page", databases, worst, pages)
    yield _row("growth_claim", databases, claim, [claim])


def _row(key: str, databases: Databases, measured: Measurement, noted: Sequence[Measurement]) -> Row:
    return Row(
        key=key if databases.name == "sqlite" else f"{key}_{databases.name}",
        what=f"{MANY:,} tasks against {FEW:,}, {databases.name}: {measured.name}",
        rounds=measured.ratios,
        unit="x",
        must=1.5,
        goal=1.1,
        note="; ".join(each.text() for each in noted),
    )


def _over_http(sizes: Mapping[int, str], folder: Path) -> list[Measurement]:
    """Send requests to a server on each database, over one connection each."""
    random = Random(1)
    with ExitStack() as stack:
        connections: dict[int, socket.socket] = {}
        for count, url in sizes.items():
            settings = servers.homing_settings(url, api_keys=f"{deliveries.CLIENT}*:{servers.API_KEY}")
            server = stack.enter_context(servers.homing(folder, f"homing_{count}", settings))
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[count] = connection

        def one(count: int) -> float:
            return _get(connections[count], f"/v1/tasks/{deliveries.task_id(random.randrange(count))}")

        def page(path: str, count: int) -> float:
            return _get(connections[count], path)

        measured = [_in_turns("GET of one task", one)]
        return measured + [_in_turns(f"a page {name}", partial(page, path)) for name, path in PAGES.items()]


def _in_turns(name: str, measure_once: Callable[[int], float]) -> Measurement:
    """Send requests to both in turns, so that other load on the machine affects both alike."""
    took: dict[int, list[float]] = {MANY: [], FEW: []}
    for number in range(-1, ROUNDS):
        milliseconds: dict[int, list[float]] = {MANY: [], FEW: []}
        for _ in range(REQUESTS):
            for count, values in milliseconds.items():
                values.append(measure_once(count))
        if number >= 0:  # the first warms up
            for count, values in milliseconds.items():
                took[count].append(median(values))
    return Measurement(name=name, many=took[MANY], few=took[FEW])


def _get(connection: socket.socket, path: str) -> float:
    """Return how many milliseconds the answer took."""
    head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {servers.API_KEY}\r\n\r\n"
    began = perf_counter()
    connection.sendall(head.encode())
    received = b""
    while not load.whole(received):
        more = connection.recv(1 << 20)
        if not more:
            raise Broken(f"GET {path}: the server hung up")
        received += more
    took = perf_counter() - began
    if not received.startswith(b"HTTP/1.1 200"):
        raise Broken(f"GET {path}: {received[:200]!r}")
    return took * 1000


async def _claims(sizes: Mapping[int, str]) -> Measurement:
    """Acquire the leases of the open tasks of both databases in turns, after the previous leases have ended."""
    stores = {count: Store(url) for count, url in sizes.items()}
    took: dict[int, list[float]] = {count: [] for count in sizes}
    for store in stores.values():
        await store.open()
    try:
        for number in range(-1, ROUNDS):
            milliseconds: dict[int, list[float]] = {count: [] for count in sizes}
            for claim in range(CLAIMS):
                now = DUE + 2 * LEASE * ((number + 1) * CLAIMS + claim)
                for count, store in stores.items():
                    began = perf_counter()
                    claimed = await store.due_tasks.acquire(now=now, limit=OPEN, owner=deliveries.CLIENT, lease=LEASE)
                    milliseconds[count].append((perf_counter() - began) * 1000)
                    if len(claimed) != OPEN:
                        raise Broken(f"{len(claimed)} of {OPEN} due tasks were leased")
            if number >= 0:
                for count, values in milliseconds.items():
                    took[count].append(median(values))
    finally:
        for store in stores.values():
            await store.close()
    return Measurement(name=f"leases of {OPEN} due tasks", many=took[MANY], few=took[FEW])
