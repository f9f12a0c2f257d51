"""The latency of a durable acknowledgement, at 16 connections and at one, on each database."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench import deliveries, subjects
from bench.databases import Databases
from bench.load import Outcome
from bench.results import Row
from bench.rounds import Effort, Turn, in_turns

CONNECTIONS: Final = 16


def measure(every: Sequence[Databases], folder: Path, effort: Effort) -> Iterator[Row]:
    """Measure all databases in turns."""
    tasks = deliveries.tasks_for(2 * effort.callbacks(subjects.HOMING_MAX_RATE // 2))
    with ExitStack() as stack:
        compared = [
            stack.enter_context(subjects.homing(databases, folder, name="latency", tasks=tasks)) for databases in every
        ]
        busy = [Turn(subject=subject, connections=CONNECTIONS) for subject in compared]
        alone = [Turn(subject=subject, connections=1) for subject in compared]
        outcomes = in_turns([*busy, *alone], effort)
    for databases, at_some in zip(every, outcomes[: len(every)], strict=True):
        yield Row(
            key=f"ack_p99_ms_{databases.name}",
            what=f"p99 of an ack, {databases.name}, {CONNECTIONS} connections",
            rounds=[one.p99_ms for one in at_some],
            unit="ms",
            must=15,
            goal=8,
            note=f"p50 {median(one.p50_ms for one in at_some):.2f} ms, {_rate(at_some):,.0f}/s",
        )
    for databases, at_one in zip(every, outcomes[len(every) :], strict=True):
        bounded = databases.name == "sqlite"
        yield Row(
            key=f"ack_p50_ms_single_{databases.name}",
            what=f"p50 of an ack, {databases.name}, one connection",
            rounds=[one.p50_ms for one in at_one],
            unit="ms",
            must=1.5 if bounded else None,
            goal=1.0 if bounded else None,
            note=f"p99 {median(one.p99_ms for one in at_one):.2f} ms",
        )


def _rate(outcomes: Sequence[Outcome]) -> float:
    return median(one.per_second for one in outcomes)
