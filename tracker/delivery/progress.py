"""What became of events since it was last written down, and how far that lets a sink's cursor go. Pure."""

from collections.abc import Iterable
from datetime import datetime

from tracker.model.event import Told
from tracker.model.sinks import Failure, Settled


class Ledger:
    """The accounts of one loop.

    The cursor goes up to the first event that is still open; what is owed of later ones is written down with them.
    """

    def __init__(self, cursor: int | None, *, at: float) -> None:
        self._upto = cursor
        self._written = cursor
        self._last = 0
        # In the order of their cursors.
        self.open: dict[int, Told] = {}
        self.told = 0
        self.delivered: list[int] = []
        self.failed: dict[int, Failure] = {}
        self.error = ""
        self.at = at

    def take(self, events: Iterable[Told], *, upto: int) -> None:
        """Begin with new events; ``upto`` is the last of the page that they came with."""
        self.open = {told.cursor: told for told in events}
        self._upto = upto
        self._last = 0

    @property
    def cursor(self) -> int | None:
        """The last event before which nothing is open; None in accounts of what is owed."""
        return next(iter(self.open)) - 1 if self.open else self._upto

    @property
    def worth_writing(self) -> bool:
        """Return whether there is more to write down than how far the cursor is."""
        return bool(self.told or self.delivered or self.failed or self.error)

    @property
    def unwritten(self) -> bool:
        return self.worth_writing or self.cursor != self._written

    def deliver(self, cursors: Iterable[int], *, owed: bool) -> None:
        for cursor in cursors:
            self.told += 1
            self._done(cursor)
            if owed:
                self.delivered.append(cursor)

    def drop(self, cursor: int) -> None:
        """Forget an event that was owed, and is for this sink no more."""
        self.delivered.append(cursor)

    def fail(self, failure: Failure) -> None:
        self.failed[failure.cursor] = failure
        if failure.error:
            self.error = failure.error
        self._done(failure.cursor)

    def give_up(self, failure: Failure) -> None:
        """Note an event that was never to be sent; unlike one that was, it says nothing of those before it."""
        self.failed[failure.cursor] = failure
        self.error = failure.error

    def put_aside(self, told: Told, *, until: datetime, attempts: int = 0) -> None:
        """Owe an event that was not tried now; what was wrong with it before is still to be read."""
        self.fail(Failure(cursor=told.cursor, task_id=told.task_id, attempts=attempts, error="", next_at=until))

    def passed_over(self) -> list[Told]:
        """Return what is open and lies before something that is done already."""
        return [told for cursor, told in self.open.items() if cursor < self._last]

    def settled(self, *, failures: int, retry_at: datetime | None, off: bool) -> Settled:
        """Return what may be written down now."""
        cursor = self.cursor
        failed = tuple(one for one in self.failed.values() if cursor is None or one.cursor <= cursor)
        return Settled(
            cursor=cursor,
            delivered=tuple(self.delivered),
            failed=failed,
            told=self.told,
            failures=failures,
            error=self.error,
            retry_at=retry_at,
            off=off,
        )

    def written(self, settled: Settled, *, at: float) -> None:
        """Strike what was written down."""
        self._written = settled.cursor
        self.told -= settled.told
        del self.delivered[: len(settled.delivered)]
        for failure in settled.failed:
            del self.failed[failure.cursor]
        if settled.off or self.error == settled.error:
            self.error = ""
        self.at = at

    def _done(self, cursor: int) -> None:
        self.open.pop(cursor, None)
        self._last = max(self._last, cursor)
