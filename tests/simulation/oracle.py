"""The oracle: what must be true at the end of every history, checked against what the provider and the sinks know.

It shares no code with Homing. It reads Homing's tables with plain SQL, the provider's truth, and what arrived.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.simulation.clients import FINAL, Clients, Order
from tests.simulation.deployment import Deployment
from tests.simulation.operators import WRONG_ID, Operators
from tests.simulation.oracle_events import Violation, about_client_callbacks, about_events
from tests.simulation.process import DEADLINE, KEYS, POLICY
from tests.simulation.provider import API_KEY, SECRET_KEY, WEBHOOK_SECRET
from tests.simulation.provider_shapes import Made
from tests.simulation.world import World

TRUTH: Final = {"succeed": "succeeded", "failed": "failed"}
# How much older than its row a task may be that a callback alone names.
WINDOW: Final = timedelta(minutes=1)
CALLBACK_TOKEN: Final = re.compile(r"/callbacks/kling/[A-Za-z0-9_-]{20,}")
RESULT: Final = re.compile(r"results\.example/(\w+)\.png")
WINDOW_SECONDS: Final = 60.0
# How often the provider may deny the ID of a callback until Homing drops it.
MOST_DENIALS: Final = 8
# A deadline that a wrong clock set may be hours away.
OPEN_ROWS: Final = (
    "SELECT count(*) FROM tasks WHERE status IN ('pending', 'submitted', 'processing') "
    "AND next_poll_at IS NOT NULL AND deadline_at <= {now}"
)


class Oracle:
    """Judges one history once everything has come to rest."""

    def __init__(self, world: World, deployment: Deployment, clients: Clients, operators: Operators) -> None:
        self.world = world
        self.deployment = deployment
        self.clients = clients
        self.operators = operators

    def at_rest(self) -> str | None:
        """Return what is still to come, None if everything is finished and delivered."""
        if self.deployment.provider.busy:
            return "the provider has tasks that run, or callbacks to send"
        rows, made = self._tasks(), self._made()
        for order in self.clients.orders:
            row = rows.get(order.task_id or "")
            if (open_for := self._open_for(order, row, bool(self._of_row(order, made[order.prompt], row)))) is not None:
                return open_for
        newest = self.deployment.rows("SELECT coalesce(max(id), 0) FROM events")[0][0]
        for what, query in (
            ("rows are open", OPEN_ROWS.format(now=int(self.world.clock().timestamp() * 1_000_000))),
            ("deliveries are pending", "SELECT count(*) FROM deliveries WHERE next_at IS NOT NULL"),
            ("sinks are behind", f'SELECT count(*) FROM sinks WHERE "on" AND cursor < {int(newest)}'),
        ):
            if count := self.deployment.rows(query)[0][0]:
                return f"{count} {what}"
        return None

    def _open_for(self, order: Order, row: dict[str, Any] | None, made: bool) -> str | None:  # noqa: FBT001 - a fact
        if not order.done:
            return f"order {order.number} is not done"
        if row is None:
            return None
        if row["conflict_at"] is not None and row["next_poll_at"] is not None and not self._cannot_ask(row):
            return f"order {order.number} is in conflict"
        is_open = row["status"] not in FINAL and made and not self._may_stay_open(order, row)
        return f"order {order.number} is {row['status']}" if is_open else None

    def violations(self, log: list[str]) -> list[Violation]:
        """Return every broken guarantee. ``log`` has the log lines of all processes."""
        found = [Violation("client saw another's data", leak) for leak in self.clients.leaks]
        found += [Violation("internal error", error) for error in self.world.internal_errors]
        made, rows = self._made(), self._tasks()
        for order in self.clients.orders:
            found += self._about_order(order, made[order.prompt], rows)
        found += self._about_results(rows)
        found += about_events(self.deployment, self.operators)
        found += about_client_callbacks(self.deployment, self.clients.orders, rows)
        found += self._about_budget()
        found += self._about_secrets(log)
        return found

    def _about_results(self, rows: dict[str, dict[str, Any]]) -> Iterator[Violation]:
        """Judge all rows, also those that no order knows: each result belongs to one row only."""
        holders = defaultdict[str, list[str]](list)
        for row in rows.values():
            for result in sorted(set(RESULT.findall(row["facts"]))):
                holders[result].append(f"{row['id']} of {row['client']}")
        for result, found in holders.items():
            if len(found) > 1:
                yield Violation("one result in two rows", f"{result}: {found}")

    def _about_order(self, order: Order, made: list[Made], rows: dict[str, dict[str, Any]]) -> Iterator[Violation]:
        name = f"order {order.number} ({order.style}, {order.naming}, {order.task_id}, answers {order.answers})"
        made = self._of_row(order, made, rows.get(order.task_id or ""))
        if len(made) > 1:
            yield Violation("doubled", f"{name}: the provider made {[task.id for task in made]}")
        if order.task_id is None:
            if made and order.style == "submit" and order.refused and not self._may_be_made(order):
                yield Violation("refused but made", f"{name}: {made[0].id}")
            elif not order.refused:
                yield Violation("stuck", f"{name}: never accepted")
        elif (row := rows.get(order.task_id)) is None:
            yield from () if self._is_forgotten(order) else [Violation("lost", f"{name}: there is no row")]
        elif row["client"] != order.client:
            yield Violation("another client's task", f"{name}: it belongs to {row['client']}")
        elif made:
            yield from self._about_made(name, order, made[0], row)
        elif row["status"] in FINAL:
            yield Violation("phantom final", f"{name}: {row['status']}, but nothing was made")
        elif row["status"] in {"submitted", "processing"} and row["origin"] == "submit":
            yield Violation("stuck", f"{name}: {row['status']}, but nothing was made")

    def _about_made(self, name: str, order: Order, made: Made, row: dict[str, Any]) -> Iterator[Violation]:
        truth = TRUTH[made.final]
        if row["status"] not in FINAL:
            if not self._may_stay_open(order, row):
                yield Violation("stuck", f"{name}: {row['status']} ({row['reason']}), in truth {truth}")
        elif row["status"] != truth:
            if not self._may_be_wrong(made, row):
                yield Violation("wrong final", f"{name}: {row['status']}, in truth {truth}")
        elif row["provider_task_id"] not in {None, made.id}:
            yield Violation("another task's ID", f"{name}: {row['provider_task_id']}, in truth {made.id}")
        elif row["status"] == "succeeded" and f"{made.id}.png" not in row["facts"]:
            yield Violation("wrong result", f"{name}: {row['facts'][:200]}")

    def _may_be_made(self, order: Order) -> bool:
        """Return whether a refused order may be made: its request had no answer, or a backup has it without its answer.

        The latter is a documented limit: after the restore, Homing sends the request again.
        """
        return order.unanswered or any(
            sent_at < lost.taken_at < answered_at
            for sent_at, answered_at in order.refusals
            for lost in self.world.forgotten
        )

    def _is_forgotten(self, order: Order) -> bool:
        """Return whether a restored backup is older than the order's row."""
        return any(
            lost.taken_at < order.accepted_at and order.sent_at <= lost.deleted_at for lost in self.world.forgotten
        )

    def _made(self) -> dict[str, list[Made]]:
        """Return what the provider made, by its prompt."""
        made = defaultdict[str, list[Made]](list)
        for task in self.deployment.provider.tasks.values():
            made[task.prompt].append(task)
        return made

    def _of_row(self, order: Order, made: list[Made], row: dict[str, Any] | None) -> list[Made]:
        """Return what belongs to the row of an order.

        Without a name, Homing recognizes a repeated request by the wall clock and by the earlier row. At a gateway
        without lookups it needs the row as well. So if the clock was set, or if a restored backup forgot the row, an
        earlier row may have a task of its own (documented limits).
        """
        is_forgotten, unnamed = bool(self.world.forgotten), order.naming == "none"
        is_foreign = any(lost.foreign for lost in self.world.forgotten)
        is_limit = (unnamed and self.world.faults["clock set"]) or (
            is_forgotten and (unnamed or is_foreign or self.deployment.provider.is_blind)
        )
        if order.style != "submit" or not is_limit:
            return made
        if row is None:
            return made[:1]
        own = [task for task in made if task.id == row["provider_task_id"] or f"{task.id}.png" in row["facts"]]
        return own or [task for task in made if task.external_id == row["sent_external_id"]][:1]

    def _may_be_wrong(self, made: Made, row: dict[str, Any]) -> bool:
        """Return whether Homing cannot know better.

        A conflict stays open where nothing finds the task. A restored backup may lack the true one of two contradictory
        callbacks.
        """
        is_lost = made.contradicted and bool(self.world.forgotten) and row["status_source"] == "callback"
        return is_lost or (row["conflict_at"] is not None and self._cannot_ask(row))

    def _cannot_ask(self, row: dict[str, Any]) -> bool:
        """Return whether nothing finds the task: a gateway without lookups, and no provider ID. The conflict stays."""
        return self.deployment.provider.is_blind and row["provider_task_id"] is None

    def _may_stay_open(self, order: Order, row: dict[str, Any]) -> bool:
        """Return whether Homing cannot know.

        Either a gateway without lookups lost the reply and the callbacks, or all callbacks of a task are lost that its
        client expected without any ID. Such a task expires at its deadline, which is late by the time that the clock
        was ahead when the row was made (a documented limit).
        """
        if order.style == "expect" and order.naming == "none" and row["provider_task_id"] is None:
            made = self._made()[order.prompt]
            # The task belongs to the first that names it (a documented limit).
            ids = {task.id for task in made}
            is_elsewhere = any(other["provider_task_id"] in ids for other in self._tasks().values())
            # An operator attached a wrong ID, which replaces the one of a callback.
            is_elsewhere = is_elsewhere or row["candidate_id"] == WRONG_ID
            # Repeated answers that are older than the callback deny the task. Homing then drops its ID.
            denials = self.world.faults["stale read"] + self.world.faults["batch entry dropped"]
            is_dropped = row["candidate_id"] is None and denials >= MOST_DENIALS
            # The clock was ahead when the row was made, so every task of the provider is older than the row.
            row_made_at = datetime.fromtimestamp(row["created_at"] / 1_000_000, UTC)
            is_dropped = is_dropped or any(task.made_at < row_made_at - WINDOW for task in made)
            is_known = order.attached or any(task.taken for task in made)
            return bool(self.world.forgotten) or is_elsewhere or is_dropped or not is_known
        now = int(self.world.clock().timestamp() * 1_000_000)
        is_late = row["deadline_at"] > now + DEADLINE // timedelta(microseconds=1)
        is_given_up = row["status"] == "expired" or (row["status"] == "pending" and is_late)
        return self.deployment.provider.is_blind and is_given_up and order.style != "adopt"

    def _about_budget(self) -> Iterator[Violation]:
        polls = [at for at, creates in self.deployment.provider.requests if not creates]
        start = 0
        for end, at in enumerate(polls):
            while polls[start] <= at - WINDOW_SECONDS:
                start += 1
            # A bucket that is full at first, and filled once within the window. A process that starts has a full one.
            restarts = sum(at - WINDOW_SECONDS < restart <= at for restart in self.deployment.restarted_at)
            if end - start + 1 > POLICY.budget * (2 + restarts):
                yield Violation("budget exceeded", f"{end - start + 1} polls within a minute at {at:.0f}")
                return

    def _about_secrets(self, log: list[str]) -> Iterator[Violation]:
        secrets = (*KEYS.values(), API_KEY, WEBHOOK_SECRET, SECRET_KEY.decode())
        for line in log:
            if any(secret in line for secret in secrets) or CALLBACK_TOKEN.search(line):
                yield Violation("secret in the log", line[:200])

    def _tasks(self) -> dict[str, dict[str, Any]]:
        names = (
            *("id", "status", "reason", "origin", "client", "provider_task_id", "sent_external_id"),
            *("next_poll_at", "conflict_at", "facts", "status_source", "candidate_id", "created_at", "deadline_at"),
        )
        found = self.deployment.rows(f"SELECT {', '.join(names)} FROM tasks")
        return {row[0]: dict(zip(names, row, strict=True)) for row in found}
