"""What was committed here last, so that it need not be read back: most readers of events are only just behind."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from tracker.model.event import PublishedEvent
from tracker.model.records import AlarmCount, AuditEntry
from tracker.model.task import Task

MOST: Final = 2_000


@dataclass(slots=True)
class Written:
    """The events of one batch, in their order, its alarms, and its entries in the audit.

    ``numbered`` where the events' cursors are known, and there are no others. ``highest`` is the greatest cursor that
    was known before: where the database gives that again, it went back.
    """

    highest: int = 0
    events: Sequence[PublishedEvent] = ()
    numbered: bool = False
    alarms: Sequence[AlarmCount] = ()
    audits: Sequence[AuditEntry] = ()


class Recent:
    """The latest events of this process.

    Only what is surely committed may be kept: a batch that failed may be decided otherwise, here or by another process,
    under the same version.
    """

    def __init__(self) -> None:
        # Where ids are given one after the other: every event after ``_floor`` up to the last of ours.
        self._tail: list[PublishedEvent] = []
        self._floor: int | None = None
        # Where others do: the tasks of events, as they then were, by id and version, and when each event happened.
        self._tasks: dict[tuple[str, int], tuple[datetime, Task]] = {}

    def clear(self) -> None:
        """Drop everything: the database is in another state."""
        self._tail, self._floor = [], None
        # Not emptied: a thread may be reading from it.
        self._tasks = {}

    def keep(self, written: Written) -> None:
        if not written.numbered:
            self._tail, self._floor = [], None
            self._keep_tasks(written.events)
        elif written.events:
            before = written.events[0].cursor - 1
            if not self._tail or self._tail[-1].cursor != before:
                # The first, or somebody else wrote in between.
                self._tail, self._floor = [], before
            self._tail.extend(written.events)
            if len(self._tail) > 2 * MOST:
                self._floor = self._tail[-MOST - 1].cursor
                del self._tail[:-MOST]

    def after(self, cursor: int, *, limit: int) -> Sequence[PublishedEvent] | None:
        """Return the next events after a cursor; None where they have to be read, also those of somebody else."""
        if self._floor is None or not self._floor <= cursor < self._tail[-1].cursor:
            return None
        start = bisect_right(self._tail, cursor, key=lambda event: event.cursor)
        return self._tail[start : start + limit]

    def get(self, task_id: str, version: int, at: datetime) -> Task | None:
        """Return a task as an event at a time left it. Thread-safe.

        A database that went back may give the same version to another event.
        """
        then, task = self._tasks.get((task_id, version), (at, None))
        return task if then == at else None

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def _keep_tasks(self, events: Sequence[PublishedEvent]) -> None:
        self._tasks.update(
            ((event.task.id, event.sequence), (event.at, event.task)) for event in events if event.task is not None
        )
        if len(self._tasks) > MOST:
            for key in list(islice(self._tasks, len(self._tasks) - MOST)):
                del self._tasks[key]
