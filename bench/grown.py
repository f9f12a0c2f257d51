"""A database with many finished tasks and a hundred open ones, written in the same way as by Homing."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from bench import deliveries
from bench.copies import HAPPENED, multiply
from bench.databases import Databases, migrated, write
from tracker.model import facts
from tracker.model.changes import Change, Entry
from tracker.model.records import HistoryEntry
from tracker.model.task import Event, Fact, Precedence, Source, Status, Task, Trust, Verdict
from tracker.rules import lifecycle

OPEN: Final = 100
CLIENTS: Final = 20
# The number of tasks that the store writes. They include every client, each kind of history and an open task.
ORIGINALS: Final = 10_000
# One of this many tasks also has observations and events. More would fill the disk without changing the result.
WITH_HISTORY: Final = 10
TOOK: Final = timedelta(seconds=40)
# The open tasks become due long after the measurement.
DUE: Final = deliveries.created_at(0) + timedelta(days=3650)
STATUSES: Final = (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED)


def grown(databases: Databases, *, count: int) -> str:
    """Create a database of ``count`` tasks. ``OPEN`` of them, spread over the whole time, are open."""
    url = migrated(databases, f"grown_{count}")
    originals = min(count, ORIGINALS)
    write(url, (_change(number, open_=number % (count // OPEN) == 0) for number in range(originals)))
    multiply(url, originals=originals, count=count, named=_named, moments=HAPPENED)
    databases.analyse(url)
    return url


def client(number: int) -> str:
    return f"client-{number % CLIENTS}"


def _change(number: int, *, open_: bool) -> Change[None]:
    task = _task(number, WORKED_ON if open_ else {**SUCCEEDED, "finished_at": deliveries.created_at(number) + TOOK})
    if number % WITH_HISTORY:
        return Change(result=None, task=task)
    steps = range(len(STATUSES) - open_)
    return Change(
        result=None,
        task=task,
        entries=tuple(_entry(task, number, step) for step in steps),
        events=tuple(_event(task, step) for step in steps),
    )


def _entry(task: Task, number: int, step: int) -> Entry:
    shown = HistoryEntry(
        id=0,
        task_id=task.id,
        at=task.created_at + step * TOOK / 2,
        source=Source.CALLBACK,
        trust=Trust.SIGNED,
        provider_status=deliveries.STEPS[step],
        status=STATUSES[step],
        verdict=Verdict.APPLIED,
        why=f"changed to {STATUSES[step].value}",
        provider_updated_at=task.created_at,
        body=deliveries.body(number, step),
    )
    return Entry(dedupe_key=f"callback|SIGNED|id msg_{number}_{step}", shown=shown)


def _event(task: Task, step: int) -> Event:
    then = replace(task, status=STATUSES[step], version=step + 2)
    return lifecycle.event(then, then.status.value, task.created_at + step * TOOK / 2)


def _named(number: int) -> dict[str, str]:
    """Return the identifying columns of a task."""
    own, order = deliveries.task_id(number), f"order-{number}"
    return {
        "id": own,
        "external_id": order,
        "external_key": order,
        "sent_external_id": own,
        "provider_task_id": deliveries.provider_id(number),
        "request_hash": f"{number:064x}",
    }


def _task(number: int, values: Mapping[str, Any]) -> Task:
    at = deliveries.created_at(number)
    named = _named(number)
    return Task(
        id=named["id"],
        client=client(number),
        external_id=named["external_id"],
        sent_external_id=named["sent_external_id"],
        provider_task_id=named["provider_task_id"],
        request_hash=named["request_hash"],
        created_at=at,
        updated_at=at,
        submitted_at=at,
        answered_at=at,
        deadline_at=DUE,
        **values,
    )


SUCCESS: Final = Precedence(rank=facts.RANK[Status.SUCCEEDED], updated_at=1_790_000_000_000_000, success=True)
FACTS: Final[Mapping[str, Fact]] = {
    "assets": Fact(
        precedence=SUCCESS,
        value=[
            {"kind": "image", "url": "https://results.example/0.png?expires=1790000000", "index": 0, "group": "single"}
        ],
    ),
    "price": Fact(precedence=SUCCESS, value={"final_unit_deduction": "8"}),
}
# The columns that are the same in every row, of open tasks and of tasks that a callback finished.
WORKED_ON: Final[Mapping[str, Any]] = {
    "provider": deliveries.PROVIDER,
    "kind": deliveries.KIND,
    "account": deliveries.ACCOUNT,
    "origin": "submit",
    "attempts": 1,
    "request": {"prompt": "a lighthouse in the fog, oil on canvas", "model_name": "kling-v3-omni", "n": 1},
    "callback_requested": True,
    "status": Status.PROCESSING,
    "precedence": Precedence(rank=facts.RANK[Status.PROCESSING]),
    "status_source": Source.CALLBACK,
    "status_trust": Trust.SIGNED,
    "version": 3,
    "next_poll_at": DUE,
}
SUCCEEDED: Final[Mapping[str, Any]] = {
    **WORKED_ON,
    "status": Status.SUCCEEDED,
    "precedence": SUCCESS,
    "facts": FACTS,
    "version": 4,
    "next_poll_at": None,
}
