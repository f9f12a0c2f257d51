"""The outcomes since the last record, and the new cursor of the sink that they allow. Pure."""

from collections.abc import Iterable
from datetime import datetime

from tracker.model.event import PublishedEvent
from tracker.model.sinks import Failure, ProgressUpdate


class Progress:
    """The progress of one queue.

    The cursor advances to the first event without an outcome. Failures of later events are recorded only when the
    cursor reaches them.
    """

    def __init__(self, cursor: int | None, *, at: float) -> None:
        self._upto = cursor
        self._written = cursor
        self._last = 0
        # Events without an outcome, in the order of their cursors.
        self.open: dict[int, PublishedEvent] = {}
        self.delivered_count = 0
        self.delivered: list[int] = []
        self.failed: dict[int, Failure] = {}
        self.error = ""
        self.at = at

    def take(self, events: Iterable[PublishedEvent], *, upto: int) -> None:
        """Start a new page of events. ``upto`` is the last cursor of their page."""
        self.open = {event.cursor: event for event in events}
        self._upto = upto
        self._last = 0

    @property
    def cursor(self) -> int | None:
        """The last cursor up to which all events have an outcome. None for the queue of pending deliveries."""
        return next(iter(self.open)) - 1 if self.open else self._upto

    @property
    def worth_writing(self) -> bool:
        """Return whether there is more to record than the cursor."""
        return bool(self.delivered_count or self.delivered or self.failed or self.error)

    @property
    def unwritten(self) -> bool:
        return self.worth_writing or self.cursor != self._written

    def deliver(self, cursors: Iterable[int], *, was_pending: bool) -> None:
        for cursor in cursors:
            self.delivered_count += 1
            self._done(cursor)
            if was_pending:
                self.delivered.append(cursor)

    def drop(self, cursor: int) -> None:
        """Drop a pending delivery whose event is no longer for this sink."""
        self.delivered.append(cursor)

    def fail(self, failure: Failure) -> None:
        self.failed[failure.cursor] = failure
        if failure.error:
            self.error = failure.error
        self._done(failure.cursor)

    def give_up(self, failure: Failure) -> None:
        """Dead-letter an event that cannot be sent. Unlike a sent one, it gives no information about earlier events."""
        self.failed[failure.cursor] = failure
        self.error = failure.error

    def put_aside(self, event: PublishedEvent, *, until: datetime, attempts: int = 0) -> None:
        """Make an untried event a pending delivery. Its earlier error stays visible."""
        self.fail(Failure(cursor=event.cursor, task_id=event.task_id, attempts=attempts, error="", next_at=until))

    def passed_over(self) -> list[PublishedEvent]:
        """Return the events without an outcome before an event with an outcome."""
        return [event for cursor, event in self.open.items() if cursor < self._last]

    def settled(self, *, failures: int, retry_at: datetime | None, off: bool) -> ProgressUpdate:
        """Return the progress that may be recorded now."""
        cursor = self.cursor
        failed = tuple(one for one in self.failed.values() if cursor is None or one.cursor <= cursor)
        return ProgressUpdate(
            cursor=cursor,
            delivered=tuple(self.delivered),
            failed=failed,
            delivered_count=self.delivered_count,
            failures=failures,
            error=self.error,
            retry_at=retry_at,
            off=off,
        )

    def written(self, settled: ProgressUpdate, *, at: float) -> None:
        """Remove the recorded progress."""
        self._written = settled.cursor
        self.delivered_count -= settled.delivered_count
        del self.delivered[: len(settled.delivered)]
        for failure in settled.failed:
            del self.failed[failure.cursor]
        if settled.off or self.error == settled.error:
            self.error = ""
        self.at = at

    def _done(self, cursor: int) -> None:
        self.open.pop(cursor, None)
        self._last = max(self._last, cursor)
