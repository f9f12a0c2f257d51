"""The ledger: what really happened at the sandbox, also if its responses and callbacks said something else.

It is the sandbox's only state (tasks, their IDs, the slots they hold). The demo and the tests compare Homing's tasks
with it. It shows callback URLs in full, so serve it on loopback only.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from homing.sandbox.outgoing_callback import FORGED_KINDS, Delivery
from homing.sandbox.refusals import EXTERNAL_ID_TAKEN, SLOTS_TAKEN, Refusal
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.submission import JsonObject
from homing.sandbox.task import Task

ENDPOINTS = ("create", "single", "batch", "list", "cursor", "helper", "result")
"""The names under which requests are counted: `batch` is `GET /tasks`, `cursor` is `POST /tasks`.

`helper` is a call that is answered at once.
"""


@dataclass(slots=True)
class Creations:
    """The create requests with one external ID: their number, and the tasks that they created."""

    requests: int = 0
    task_ids: list[str] = field(default_factory=list)


class Ledger:
    """Tasks by both IDs, and counts. `as_json` returns all of it."""

    def __init__(self, settings: SandboxSettings, started_at: int) -> None:
        self._settings = settings
        self.started_at = started_at
        self.requests: Counter[str] = Counter(dict.fromkeys(ENDPOINTS, 0))
        self.refused: Counter[str] = Counter()
        self.creations: dict[str, Creations] = {}
        self.charges: list[JsonObject] = []
        self._tasks: dict[str, Task] = {}
        self._by_external_id: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Go through the tasks, oldest first."""
        return iter(self._tasks.values())

    def count(self, endpoint: str) -> int:
        """Count a request and return its number, from 1."""
        self.requests[endpoint] += 1
        return self.requests[endpoint]

    def charge(self, call: str, account: str, units: float) -> None:
        """Enter a call that was done at once and costs or makes something."""
        self.charges.append({"call": call, "account": account, "units": units})

    def count_create(self, external_id: str | None) -> None:
        """Count a well-formed create request. Its outcome does not matter."""
        if external_id is not None:
            self.creations.setdefault(external_id, Creations()).requests += 1

    def check_capacity(self, external_id: str | None, slots: int, *, again: bool = False) -> None:
        """Raise `Refusal` if the provider would not create this task. `again` allows a used external ID."""
        if not self._settings.reseller and not again and external_id in self._by_external_id:
            raise Refusal(1201, EXTERNAL_ID_TAKEN.format(id=external_id))
        limit = self._settings.slots
        if limit is not None and sum(task.slots for task in self) + slots > limit:
            raise Refusal(1303, SLOTS_TAKEN)
        if len(self) >= self._settings.max_tasks:
            raise Refusal(5001, "the sandbox is full: its max_tasks is reached")

    def enter(self, task: Task) -> None:
        self._tasks[task.id] = task
        if task.external_id is not None:
            self._by_external_id.setdefault(task.external_id, task)
            self.creations.setdefault(task.external_id, Creations()).task_ids.append(task.id)

    def by_id(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def by_external_id(self, external_id: str) -> Task | None:
        """Return the first task with this external ID. With a reseller, the provider does not know this ID."""
        return self._by_external_id.get(external_id)

    def as_json(self) -> JsonObject:
        deliveries = [delivery for task in self for delivery in task.callbacks]
        sent = [delivery for delivery in deliveries if delivery.attempts]
        return {
            "seed": self._settings.seed,
            "started_at": self.started_at,
            "requests": dict(self.requests),
            "refused": dict(self.refused),
            "tasks": [task_json(task) for task in self],
            "creations": {
                external_id: {"requests": c.requests, "accepted": len(c.task_ids), "task_ids": c.task_ids}
                for external_id, c in self.creations.items()
            },
            "charges": self.charges,
            "callbacks": {
                "sent": sum(len(delivery.attempts) for delivery in sent),
                "waiting": sum(delivery.state == "waiting" for delivery in deliveries),
                "by_kind": dict(Counter(delivery.callback.kind for delivery in deliveries)),
                "forgeries_sent": _sent(sent, "forged"),
                "replays_sent": _sent(sent, "replayed"),
                "forged_or_replayed_accepted": sum(
                    delivery.state == "delivered" and delivery.callback.kind in FORGED_KINDS for delivery in sent
                ),
            },
        }


def task_json(task: Task) -> JsonObject:
    """Return the true state of one task. Statuses are the legacy ones, times are milliseconds."""
    state = task.state
    return {
        "id": task.id,
        "external_id": task.external_id,
        "kind": task.submission.kind,
        "prompt": task.submission.prompt,
        "account": task.account,
        "callback_url": task.submission.callback_url,
        "status": state.status,
        "final": state.final,
        "message": state.message,
        "result_urls": list(state.results),
        "units": task.units if state.results else 0,
        "created_at": task.created_at,
        "updated_at": state.updated_at,
        "held": task.held,
        "queries": task.queries,
        "states": [{"status": past.status, "updated_at": past.updated_at} for past in task.states],
        "callbacks": [delivery_json(delivery) for delivery in task.callbacks],
    }


def delivery_json(delivery: Delivery) -> JsonObject:
    callback = delivery.callback
    return {
        "kind": callback.kind,
        "variant": callback.variant,
        "about": callback.about,
        "status": callback.status,
        "target": callback.target,
        "webhook_id": callback.webhook_id,
        "seal": callback.seal,
        "state": delivery.state,
        "attempts": [
            {"at": attempt.at, "answer": attempt.answer, "error": attempt.error} for attempt in delivery.attempts
        ],
    }


def _sent(deliveries: list[Delivery], kind: str) -> int:
    return sum(delivery.callback.kind == kind for delivery in deliveries)
