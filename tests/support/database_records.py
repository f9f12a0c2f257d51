"""Read the database without Homing's code after a load test, and check its consistency."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.suites.store_case import read_together
from tests.support.callback_senders import Delivery
from tracker.model.facts import RANK
from tracker.model.task import Status

PUBLISHED_VERDICTS: Final = frozenset({"applied", "completed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One observation."""

    task_id: str
    key: str
    body: bytes
    verdict: str
    status: str
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Tasks as (status, version) by id; events as (id, task, sequence) in the order of their ids."""

    tasks: dict[str, tuple[str, int]]
    kept: list[Kept]
    events: list[tuple[int, str, int]]
    deliveries: int

    @property
    def bodies(self) -> Counter[tuple[str, bytes]]:
        return Counter((each.task_id, each.body) for each in self.kept)


def records(url: str) -> Records:
    """Read all records of one moment. No process may write to a SQLite file at the same time."""
    observations, tasks, events, counted = read_together(
        url,
        "SELECT task_id, dedupe_key, body, verdict, status, repeats FROM observations WHERE source = 'callback'",
        "SELECT id, status, version FROM tasks",
        "SELECT id, task_id, sequence FROM events ORDER BY id",
        "SELECT value FROM counters WHERE name = 'callbacks'",
    )
    kept = [
        Kept(task_id=task_id, key=key, body=bytes(body), verdict=verdict, status=status, repeats=repeats)
        for task_id, key, body, verdict, status, repeats in observations
    ]
    return Records(
        tasks={task_id: (status, version) for task_id, status, version in tasks},
        kept=kept,
        events=[(number, task_id, sequence) for number, task_id, sequence in events],
        deliveries=sum(value for (value,) in counted),
    )


def agree(found: Records) -> None:
    """Check that observations, tasks, events and counts agree: each callback is recorded completely or not at all."""
    sequences: dict[str, list[int]] = defaultdict(list)
    for _, task_id, sequence in found.events:
        sequences[task_id].append(sequence)
    transitions = Counter(each.task_id for each in found.kept if each.verdict in PUBLISHED_VERDICTS)
    ranks: dict[str, int] = defaultdict(int)
    for each in found.kept:
        ranks[each.task_id] = max(ranks[each.task_id], RANK[Status(each.status)])
    for task_id, (status, version) in found.tasks.items():
        # In the order of their ids, and none of them missing or twice.
        assert sequences[task_id] == list(range(2, version + 1)), task_id
        assert len(sequences[task_id]) == transitions[task_id], task_id
        assert RANK[Status(status)] == ranks[task_id], task_id
    assert max(found.bodies.values(), default=1) == 1, "an observation was added twice"
    assert sum(1 + each.repeats for each in found.kept) == found.deliveries


def hold(found: Records, acknowledged: Iterable[Delivery]) -> None:
    """Check that every acknowledged callback is recorded under its own key."""
    keys = {(each.task_id, each.body): each.key for each in found.kept}
    for delivery in acknowledged:
        key = keys.get((delivery.task_id, delivery.body))
        assert key is not None, f"{delivery.webhook_id} was acknowledged and is not recorded"
        assert key.endswith(delivery.webhook_id), key


def hold_exactly(found: Records, sent: Iterable[Delivery]) -> None:
    """Check the final state: every callback once, every task in the status of its last report."""
    assert found.bodies == Counter((delivery.task_id, delivery.body) for delivery in sent)
    assert {status for status, _ in found.tasks.values()} == {Status.SUCCEEDED}
