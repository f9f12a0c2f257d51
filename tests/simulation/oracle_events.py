"""The oracle's part about events: what is recorded, what each sink received, and what the clients' URLs received."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tests.simulation.clients import FINAL, Order
from tests.simulation.deployment import Deployment
from tests.simulation.operators import Operators
from tests.simulation.process import CLIENTS
from tests.simulation.sinks import SINKS

# What changes without an event of its own.
UNPUBLISHED: Final = frozenset({"updated_at", "last_observed_at", "polled_at", "next_poll_at", "poll_count"})
EVENTS: Final = "SELECT id, task_id, sequence, type, data FROM events WHERE task_id IS NOT NULL ORDER BY id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken guarantee; ``invariant`` is its name."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


def about_events(deployment: Deployment, operators: Operators) -> Iterator[Violation]:
    """Judge the recorded events, and what each sink received of them."""
    recorded = deployment.rows(EVENTS)
    yield from _about_recorded(recorded)
    sequences = defaultdict[str, list[int]](list)
    for cursor, task_id, version, _, _ in recorded:
        sequences[task_id].append(sequence_of(cursor, version))
    for sink in SINKS:
        yield from _about_sink(deployment, sink, sequences, in_order=sink not in operators.dead_lettered)


def about_client_callbacks(
    deployment: Deployment, orders: Sequence[Order], rows: dict[str, dict[str, Any]]
) -> Iterator[Violation]:
    """Judge the callbacks that Homing sends to its clients' own URLs, in the provider's shape."""
    for client in CLIENTS:
        host, received = f"{client}.example", defaultdict[str, set[str]](set)
        for webhook in deployment.destinations.received.get(host, ()):
            body = json.loads(webhook.body)
            received[deployment.provider.product.task_id(body)].add(_word(body))
        for task_id in received:
            if task_id in rows and rows[task_id]["client"] != client:
                yield Violation("client saw another's data", f"{client} got a callback about {task_id}")
        if host in deployment.world.gone:
            continue
        for order in orders:
            row = rows.get(order.task_id or "")
            if order.client == client and order.wants_callback and row is not None and row["status"] in FINAL:
                word = "succeed" if row["status"] == "succeeded" else "failed"
                if word not in received[row["id"]]:
                    detail = f"{word} of order {order.number} ({row['id']}) to {host}: {sorted(received[row['id']])}"
                    yield Violation("callback never sent", detail)


def _word(body: dict[str, Any]) -> str:
    """Return the status of a callback, in the word of the older dialect."""
    status = str(body.get("task_status") or body["status"])
    return "succeed" if status == "succeeded" else status


def sequence_of(cursor: int, version: int) -> int:
    """Return the number in an event's ID. Without a restart or a restore it is the version of the task."""
    return version if cursor < 1 << 44 else (cursor >> 12) * 10**6 + version


def _about_recorded(recorded: Sequence[tuple[Any, ...]]) -> Iterator[Violation]:
    last: dict[str, tuple[int, str]] = {}
    for _, task_id, version, kind, data in recorded:
        published = {name: value for name, value in json.loads(data).items() if name not in UNPUBLISHED}
        content = json.dumps([kind, published])
        before, known = last.get(task_id, (0, ""))
        if before >= version:
            yield Violation("events out of order", f"{task_id}: version {version} after {before}")
        if known == content:
            yield Violation("event without a change", f"{task_id}: version {version}")
        last[task_id] = version, content


def _about_sink(
    deployment: Deployment, sink: str, sequences: dict[str, list[int]], *, in_order: bool
) -> Iterator[Violation]:
    # A new file counts events from 1 again. Event numbers that are made of a wrong time can come again after a restore.
    # Both are documented limits.
    world = deployment.world
    is_limit = any(lost.foreign or world.faults["clock set"] for lost in world.forgotten)
    last_restored = max((lost.over_at for lost in world.forgotten), default=0.0)
    received = defaultdict[str, list[int]](list)
    seen: dict[str, bytes] = {}
    for webhook in deployment.destinations.received.get(f"{sink}.example", ()):
        if seen.setdefault(webhook.webhook_id, webhook.body) != webhook.body and not is_limit:
            yield Violation("one ID, two events", f"{sink}: {webhook.webhook_id}")
        if not json.loads(webhook.body)["type"].startswith("homing.task."):
            continue
        task_id, _, digits = webhook.webhook_id.rpartition("-")
        if int(digits) not in received[task_id]:
            received[task_id].append(int(digits))
        # A restored backup may not have what was sent before.
        if webhook.at > last_restored and int(digits) not in sequences[task_id]:
            yield Violation("phantom event", f"{sink}: {webhook.webhook_id}")
    for task_id, numbers in received.items():
        if in_order and not is_limit and any(earlier >= later for earlier, later in pairwise(numbers)):
            yield Violation("delivered out of order", f"{sink}: {task_id} {numbers}")
    for task_id, numbers in sequences.items():
        if missing := set(numbers) - set(received.get(task_id, ())):
            yield Violation("never delivered", f"{sink}: {task_id} {sorted(missing)} of {numbers}")
