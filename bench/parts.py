"""The parts of the benchmark, in the order of the table. ``ONLY`` chooses from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench import acks, event_streams, growth, latency, memory, relaying, schedule_cases, schedules, stale
from bench.databases import Databases
from bench.results import Row
from bench.rounds import Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The input of every part: a folder for its files, the databases to measure, and the effort.

    Parts for one database use the first. ``soak`` selects the long form of a part that has one.
    """

    folder: Path
    databases: Sequence[Databases]
    effort: Effort
    soak: bool


Part = Callable[[Bench], Iterator[Row]]


def _acks(bench: Bench) -> Iterator[Row]:
    for databases in bench.databases:
        yield from acks.measure(databases, bench.folder, bench.effort)


def _latency(bench: Bench) -> Iterator[Row]:
    return latency.measure(bench.databases, bench.folder, bench.effort)


def _stale(bench: Bench) -> Iterator[Row]:
    return stale.measure(bench.databases[0], bench.folder, rounds=bench.effort.rounds)


def _healthy(bench: Bench) -> Iterator[Row]:
    return schedules.healthy(bench.folder)


def _lost(bench: Bench) -> Iterator[Row]:
    return schedules.lost(bench.folder)


def _schedule(bench: Bench) -> Iterator[Row]:
    del bench
    return schedule_cases.measure()


def _growth(bench: Bench) -> Iterator[Row]:
    return growth.measure(bench.databases[0], bench.folder)


def _memory(bench: Bench) -> Iterator[Row]:
    return memory.measure(bench.databases[0], bench.folder, memory.WHOLE if bench.soak else memory.SHORT)


def _events(bench: Bench) -> Iterator[Row]:
    yield from event_streams.latency(bench.databases, bench.folder, bench.effort)
    for databases in bench.databases:
        yield from event_streams.cost(databases, bench.folder, bench.effort)
    yield from event_streams.idle(bench.databases[0], bench.folder)


def _brokers(bench: Bench) -> Iterator[Row]:
    for databases in bench.databases:
        yield from relaying.rates(databases, bench.folder)
        yield from relaying.latency(databases, bench.folder, bench.effort)


PARTS: Final[Mapping[str, Part]] = MappingProxyType(
    {
        "acks": _acks,
        "latency": _latency,
        "stale": _stale,
        "healthy": _healthy,
        "lost": _lost,
        "schedule": _schedule,
        "growth": _growth,
        "memory": _memory,
        "events": _events,
        "brokers": _brokers,
    }
)
