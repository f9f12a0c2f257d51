"""Memory growth of the server: over a million callbacks, and with ten times the usual connections."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import deliveries, load, subjects
from bench.databases import Databases
from bench.load import Plan
from bench.results import Broken, Row
from bench.rounds import say
from bench.subjects import Subject

USUAL_CONNECTIONS: Final = 64
OVERLOAD_CONNECTIONS: Final = 640
# More than the server accepts, and more than may wait for their commit.
FLOOD_CONNECTIONS: Final = 5_000
FLOOD_SECONDS: Final = 5.0
CALLBACKS_PER_SEND: Final = 25_000
MAX_SEND_SECONDS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The two callbacks at which memory is compared, and the seconds of overload afterwards."""

    first: int
    last: int
    overload_seconds: float

    @property
    def callbacks(self) -> int:
        return self.last + int((self.overload_seconds + FLOOD_SECONDS) * subjects.HOMING_MAX_RATE)


SHORT: Final = Stretch(first=20_000, last=120_000, overload_seconds=15)
WHOLE: Final = Stretch(first=100_000, last=1_000_000, overload_seconds=60)


def measure(databases: Databases, folder: Path, stretch: Stretch) -> Iterator[Row]:
    tasks = deliveries.tasks_for(stretch.callbacks)
    with subjects.homing(databases, folder, name="memory", tasks=tasks) as subject:
        _send_up_to(subject, stretch.first)
        early = subject.server.memory().now
        _send_up_to(subject, stretch.last)
        late = subject.server.memory().now
        subject.verify()
        subject.server.forget_peak()
        _overload(subject, OVERLOAD_CONNECTIONS, stretch.overload_seconds)
        overloaded = subject.server.memory()
        say(f"{overloaded.peak:.1f} MiB at most during overload, {overloaded.now:.1f} MiB after it")
        refused = _overload(subject, FLOOD_CONNECTIONS, FLOOD_SECONDS)
        flooded = subject.server.memory()
        say(f"{flooded.peak:.1f} MiB at most during a flood, {flooded.now:.1f} MiB after it; {refused}")
    yield Row(
        key="memory_growth_mib",
        what=f"growth of the server's memory, {databases.name}, from callback {stretch.first:,} to {stretch.last:,}",
        rounds=[late - early],
        unit="MiB",
        must=20,
        goal=5,
        note=f"{late:.0f} MiB at the end" + ("" if stretch == WHOLE else "; the whole million: make nightly"),
    )
    yield Row(
        key="memory_overload_mib",
        what=f"… the most that {OVERLOAD_CONNECTIONS} connections for {stretch.overload_seconds:g} s add to it",
        rounds=[overloaded.peak - late],
        unit="MiB",
        must=20,
        goal=5,
        note=f"after a flood of {FLOOD_CONNECTIONS:,} connections: {flooded.now - late:+.0f} MiB; {refused}",
    )


def _send_up_to(subject: Subject, place: int) -> None:
    while subject.place < place:
        subject.send(
            connections=USUAL_CONNECTIONS,
            seconds=MAX_SEND_SECONDS,
            count=min(CALLBACKS_PER_SEND, place - subject.place),
        )
        say(f"{subject.server.memory().now:.1f} MiB after {subject.place:,} callbacks")


def _overload(subject: Subject, connections: int, seconds: float) -> str:
    """Overload the server, and check that every acknowledged callback is recorded. Return the counts."""
    assert subject.kept is not None
    before = subject.kept().callbacks
    count = min(int(seconds * subject.most), subject.left)
    plan = Plan(
        port=subject.server.port,
        connections=connections,
        seconds=seconds,
        first=subject.place,
        count=count,
        reconnect=True,
    )
    outcome = load.run(plan)
    subject.place += count
    if unknown := outcome.statuses.keys() - {"200", "503"}:
        raise Broken(f"{subject.name}: answers {outcome.statuses} at {connections} connections ({unknown})")
    kept = subject.kept().callbacks - before
    if kept < outcome.acknowledged:
        raise Broken(f"{subject.name}: {outcome.acknowledged} acknowledged, {kept} recorded")
    return (
        f"{outcome.acknowledged:,} acknowledged, {outcome.statuses.get('503', 0):,} refused, {outcome.lost:,} cut off"
    )
