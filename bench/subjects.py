"""The servers under test, each with its own database, and the check that acknowledged callbacks are stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from bench import deliveries, load, servers
from bench.copies import DUE, HAPPENED, multiply
from bench.databases import Databases, count_of, migrated, write
from bench.results import Broken
from tracker.model.changes import Change
from tracker.model.task import Task

# More callbacks than each server answers in a second, so that the time ends a round and not the callbacks.
BARE_MAX_RATE: Final = 30_000
HOMING_MAX_RATE: Final = 10_000
NAIVE_MAX_RATE: Final = 2_500
HEADROOM: Final = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The content of a database: callbacks, callbacks that changed their task, and events."""

    callbacks: int
    moves: int
    events: int


@dataclass(slots=True, kw_only=True)
class Subject:
    """One server that gets the callbacks of ``tasks`` tasks. ``place`` is the position of the next callback.

    ``kept`` counts the rows of its database, if it has one. ``url`` is the URL of Homing's database. ``most`` is the
    highest rate per second.
    """

    name: str
    server: servers.Server
    most: float
    tasks: int = 0
    url: str = ""
    kept: Callable[[], Kept] | None = None
    place: int = 0

    @property
    def left(self) -> int:
        """The number of callbacks about its tasks that have not been sent."""
        return self.tasks * len(deliveries.STEPS) - self.place

    def send(self, *, connections: int, seconds: float, count: int | None = None) -> load.Outcome:
        """Send callbacks for some seconds, or ``count`` callbacks. Raises: Broken, after an answer other than 200."""
        if count is None:
            count = int(seconds * self.most)
        if self.kept is not None:
            count = min(count, self.left)
        if count <= 0:
            raise Broken(f"{self.name}: there are no callbacks left to send")
        plan = load.Plan(port=self.server.port, connections=connections, seconds=seconds, first=self.place, count=count)
        outcome = load.run(plan)
        self.place += outcome.answered
        self.most = min(self.most, outcome.per_second * HEADROOM)
        if outcome.acknowledged != outcome.answered or outcome.lost:
            problem = f"answers {outcome.statuses}, {outcome.lost} lost"
            raise Broken(f"{self.name}: {problem}: {self.server.logged()}")
        return outcome

    def verify(self) -> None:
        """Check that the database has every acknowledged callback, and nothing else."""
        if self.kept is None:
            return
        kept = self.kept()
        if kept != Kept(callbacks=self.place, moves=self.place, events=self.place):
            raise Broken(f"{self.name}: {self.place} callbacks acknowledged, but there are {kept}")


@contextmanager
def bare(folder: Path) -> Iterator[Subject]:
    with servers.module(folder, "bare", "bench.bare") as server:
        yield Subject(name="bare", server=server, most=BARE_MAX_RATE)


@contextmanager
def naive(databases: Databases, folder: Path, *, style: str, tasks: int) -> Iterator[Subject]:
    """Run the naive handler. It writes its tasks before it starts."""
    name = f"naive_{style}_{databases.name}"
    url = databases.fresh(name)

    def kept() -> Kept:
        callbacks = count_of(url, "SELECT count(*) FROM naiveobservation")
        return Kept(callbacks=callbacks, moves=callbacks, events=callbacks)

    with servers.module(folder, name, "bench.naive", url, style, str(tasks)) as server:
        yield Subject(name=name, server=server, most=NAIVE_MAX_RATE, kept=kept, tasks=tasks)


@contextmanager
def homing(databases: Databases, folder: Path, *, name: str, tasks: int, **settings: str) -> Iterator[Subject]:
    """Run `homing serve` on a database that already has the tasks."""
    full = f"homing_{name}_{databases.name}"
    url = migrated(databases, full)
    write(url, (Change(result=None, task=expected(number)) for number in range(min(tasks, deliveries.BLOCK))))
    multiply(url, originals=deliveries.BLOCK, count=tasks, named=_named, moments=(*HAPPENED, *DUE))

    def kept() -> Kept:
        return Kept(
            callbacks=count_of(url, "SELECT coalesce(sum(1 + repeats), 0) FROM observations WHERE source = 'callback'"),
            moves=count_of(url, "SELECT count(*) FROM observations WHERE verdict = 'applied'"),
            events=count_of(url, "SELECT count(*) FROM events"),
        )

    with servers.homing(folder, full, servers.homing_settings(url, **settings)) as server:
        yield Subject(name=full, server=server, most=HOMING_MAX_RATE, kept=kept, tasks=tasks, url=url)


def _named(number: int) -> dict[str, str]:
    own = deliveries.task_id(number)
    return {"id": own, "external_id": own, "external_key": own, "sent_external_id": own}


def expected(number: int) -> Task:
    """Return a task that was recorded before its submission. Each of its three callbacks changes it."""
    at = deliveries.created_at(number)
    own = deliveries.task_id(number)
    return Task(
        id=own,
        provider=deliveries.PROVIDER,
        kind=deliveries.KIND,
        account=deliveries.ACCOUNT,
        client=deliveries.CLIENT,
        origin="expect",
        created_at=at,
        updated_at=at,
        answered_at=at,
        # Nothing is due during the measurement.
        deadline_at=at + timedelta(days=3650),
        next_poll_at=at + timedelta(days=3650),
        external_id=own,
        sent_external_id=own,
        callback_requested=True,
    )
