"""Durable acknowledgements per second, in one run with the bare server and the naive handler."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench import deliveries, subjects
from bench.databases import Databases
from bench.results import Row
from bench.rounds import Effort, Turn, in_turns

CONNECTIONS: Final = 64
STYLES: Final = ("def", "async")


def measure(databases: Databases, folder: Path, effort: Effort) -> Iterator[Row]:
    few, many = (
        deliveries.tasks_for(effort.callbacks(most)) for most in (subjects.NAIVE_MAX_RATE, subjects.HOMING_MAX_RATE)
    )
    with ExitStack() as stack:
        everyone = [
            subjects.bare(folder),
            subjects.homing(databases, folder, name="acks", tasks=many),
            *(subjects.naive(databases, folder, style=style, tasks=few) for style in STYLES),
        ]
        turns = [Turn(subject=stack.enter_context(subject), connections=CONNECTIONS) for subject in everyone]
        bare, ours, *both = ([one.per_second for one in outcomes] for outcomes in in_turns(turns, effort))
    # A handler is written one way or the other. Homing is compared with the faster one.
    naive = max(both, key=median)
    rates = ", ".join(f"`{style}` {median(rate):,.0f}/s" for style, rate in zip(STYLES, both, strict=True))
    key = f"acks_{databases.name}"
    where = f"{databases.name}, {CONNECTIONS} connections"
    yield Row(key=f"{key}_per_s", what=f"durable acks, {where}", rounds=ours, unit="/s", more=True)
    yield Row(
        key=f"{key}_vs_bare",
        what="… against the bare server",
        rounds=_ratios(ours, bare),
        unit="x",
        must=0.40,
        goal=0.60,
        more=True,
        note=f"bare: {median(bare):,.0f}/s",
    )
    yield Row(
        key=f"{key}_vs_naive",
        what="… against the naive handler, the faster of two",
        rounds=_ratios(ours, naive),
        unit="x",
        must=12,
        goal=20,
        more=True,
        note=f"naive: {rates}",
    )


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]
