"""Whether the database is still in a state that follows what this process has seen of it.

A standby that was promoted too early, a restore to an earlier point in time and a restored backup give event numbers
again that were given already, and everything that a process remembers of the lost events is wrong. Listeners learn
of it, drop what they remember and start over from the database.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, text

from tracker.model import event_numbers
from tracker.storage.engine import locks

log: Final = logging.getLogger("homing.database")

WENT_BACK: Final = "event numbers went back"
SEQUENCE: Final = "events_id_seq"
# Both databases' own clocks, and nothing where no event was ever given a number.
SQLITE_CONTINUE: Final = text(
    "UPDATE sqlite_sequence SET seq = max(seq, :highest, "  # noqa: S608 - numbers of our own
    f"(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - {event_numbers.EPOCH}) << {event_numbers.BITS}) "
    "WHERE name = 'events' AND seq > 0"
)
POSTGRES_CONTINUE: Final = (
    f"SELECT setval('{SEQUENCE}', greatest(last, {{highest}}, "  # noqa: S608 - the same
    f"((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {event_numbers.EPOCH}) << {event_numbers.BITS})) "
    f"FROM (SELECT pg_sequence_last_value('{SEQUENCE}') AS last) AS given WHERE last IS NOT NULL"
)
SQLITE_GIVEN: Final = text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
POSTGRES_GIVEN: Final = text(f"SELECT pg_sequence_last_value('{SEQUENCE}')")


class WentBack(Exception):
    """The database gives event numbers again that this process has seen."""


class Continuity:
    """What this process knows of the database's past. ``highest`` is the greatest event number that it has seen.

    ``changes`` counts how often the database was found to be in another state than the one that this process left, and
    ``left_at`` is the greatest number that was seen before the last time: no event of the new state is below it that
    was not there before.
    """

    def __init__(self) -> None:
        self.highest = 0
        self.changes = 0
        self.left_at = 0
        self._listeners: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Call listeners on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def see(self, cursor: int) -> None:
        """Note the number of an event that is committed."""
        self.highest = max(self.highest, cursor)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have ``listener`` called after each change; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def changed(self, why: str) -> None:
        """Note that the database is in another state; any thread may call this, once event numbers continue."""
        self.changes += 1
        self.left_at = self.highest
        log.warning("the database was restored or replaced, so Homing reads everything again: %s", why)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def continue_numbers(connection: Connection, *, highest: int = 0) -> None:
    """Let the next event number be greater than any that was ever given, in whatever state of the database."""
    if locks.is_shared(connection):
        locks.lock_order(connection)
        connection.execute(text(POSTGRES_CONTINUE.format(highest=highest)))
    else:
        connection.execute(SQLITE_CONTINUE, {"highest": highest})


def given(connection: Connection) -> int:
    """Return the greatest event number that the database may have given: no cursor of its own is beyond that."""
    statement = POSTGRES_GIVEN if locks.is_shared(connection) else SQLITE_GIVEN
    last: int | None = connection.execute(statement).scalar_one_or_none()
    return last or 0
