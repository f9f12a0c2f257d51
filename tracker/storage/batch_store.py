"""Committing batches, and what follows from a commit: what is remembered of it, and what the log says."""

from collections.abc import Sequence
from typing import Any, Final

from tracker.errors import StoreUnavailable
from tracker.model.changes import Work
from tracker.storage import audit, batch
from tracker.storage.alarm_log import AlarmLog
from tracker.storage.engine.continuity import WENT_BACK, WentBack, continue_numbers
from tracker.storage.engine.database import Database
from tracker.storage.event_store import EventStore
from tracker.storage.recent import Written

# A database that went back is noticed by the first, and written by the second.
RUNS: Final = 2


class BatchStore:
    """The verb that everything goes through that follows from a decision. Part of the store."""

    def __init__(self, database: Database, outbox: EventStore) -> None:
        self._database = database
        self._outbox = outbox
        self._continuity = database.backend.continuity
        self.alarm_log = AlarmLog()

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Decide and commit a batch; see ``batch.apply``."""
        for _ in range(RUNS):
            changes, written = self._continuity.changes, Written(highest=self._continuity.highest)
            try:
                results = await self._database.write_batch(batch.apply, works, written)
            except WentBack:
                await self.continue_numbers()
                self._continuity.changed(WENT_BACK)
                continue
            if changes == self._continuity.changes:
                self._outbox.keep(written)
            self.alarm_log.say(written.alarms)
            audit.say(written.audits)
            return results
        raise StoreUnavailable("the database went back again: wait until its restore is done")

    async def continue_numbers(self) -> None:
        """Continue event numbers beyond all that were used in any earlier state of the database."""
        await self._database.write(continue_numbers, highest=self._continuity.highest)
