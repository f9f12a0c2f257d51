"""Events as sinks get them: of tasks that never were in a database."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.builders import NOW, PICTURE, a_task
from tracker.model.event import TASK_TYPES, Found, PublishedEvent
from tracker.model.facts import asset_to_json
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Fact, Precedence, Source, Status, Task, Trust

SUCCESS = Precedence(rank=5, polled=True, success=True)


def a_success(number: int = 1, **changes: Any) -> Task:
    """Return a succeeded task with one asset and a price."""
    facts = {
        "assets": Fact(precedence=SUCCESS, value=[asset_to_json(PICTURE)]),
        "price": Fact(precedence=SUCCESS, value={"final_unit_deduction": "8"}),
    }
    values: dict[str, Any] = {
        "status": Status.SUCCEEDED,
        "precedence": SUCCESS,
        "facts": facts,
        "version": 3,
        "status_source": Source.POLL,
        "status_trust": Trust.PROVIDER,
        "finished_at": NOW,
        "provider_task_id": f"8{number:09d}",
    }
    return a_task(number, **(values | changes))


def an_event(task: Task, name: str | None = None, *, cursor: int = 1) -> PublishedEvent:
    """Return the event of a task's current state; pass ``name`` if the event type is not its status."""
    kind = f"homing.task.{name or task.status.value}"
    return PublishedEvent(cursor=cursor, type=kind, sequence=task.version, at=NOW, task=task)


def events_of(number: int, *, upto: int, first: int = 1, **changes: Any) -> list[PublishedEvent]:
    """Make the first events of one task, their cursors from ``first`` on."""
    task = a_task(number, status=Status.PROCESSING, **changes)
    return [an_event(replace(task, version=at), cursor=first + at - 1) for at in range(1, upto + 1)]


def an_alarm(kind: Alarm = Alarm.ORPHAN, *, cursor: int = 1) -> PublishedEvent:
    count = AlarmCount(
        kind=kind, provider="kling", hour=NOW, count=1, last_at=NOW + timedelta(minutes=3), task_id=None, detail="odd"
    )
    return PublishedEvent(cursor=cursor, type=f"homing.alarm.{kind.value}", sequence=1, at=NOW, alarm=count)


def readable(found: Iterable[Found]) -> list[PublishedEvent]:
    """Return events that can all be read."""
    published: list[PublishedEvent] = []
    for event in found:
        assert isinstance(event, PublishedEvent)
        published.append(event)
    return published


def every_event() -> list[PublishedEvent]:
    """Return one event of each type; types that are not a status use a succeeded task."""
    named = [kind.rpartition(".")[2] for kind in TASK_TYPES]
    statuses = [Status(name) if name in {*Status} else Status.SUCCEEDED for name in named]
    tasks = [
        an_event(a_success(number, status=status), name, cursor=number)
        for number, (name, status) in enumerate(zip(named, statuses, strict=True), start=1)
    ]
    return tasks + [an_alarm(kind, cursor=number) for number, kind in enumerate(Alarm, start=len(tasks) + 1)]
