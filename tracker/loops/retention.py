"""Retention: the loop that deletes tasks after the retention time, in small steps.

A step uses the database for a few milliseconds and then pauses for several times as long. So other work slows down the
deletion, but not the other way round.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tracker.service.repeat import Failures, pause
from tracker.storage.retention_store import Deleted, Place
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.retention")

STEP: Final = 50
PAUSE: Final = timedelta(milliseconds=20)
# The length of the pause as a multiple of the step before it. A write meets a step once in ten times.
PAUSE_FACTOR: Final = 9
IDLE: Final = timedelta(minutes=1)
LOGGED_TASKS: Final = 10_000


class Retention:
    """``run_once`` does one step and returns its counts. ``run`` does steps until it is stopped.

    ``keep`` is how long a task is kept after it finished, and an orphan or an alarm after it was last seen. ``idle`` is
    the pause if there is nothing to delete, or if the database fails.
    """

    def __init__(self, store: Store, *, clock: Callable[[], datetime], keep: timedelta, idle: timedelta = IDLE) -> None:
        self._store = store
        self._clock = clock
        self._keep = keep
        self._idle = idle
        self._after: Place | None = None
        self._unlogged = 0
        self._failures = Failures(log, "retention cannot work", "retention works again")

    async def run(self, stop: asyncio.Event) -> None:
        """Do steps until ``stop``. A failed step is logged once and repeated later."""
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            rest = self._idle
            if await self._step():
                rest = max(PAUSE, timedelta(seconds=(loop.time() - began) * PAUSE_FACTOR))
            await pause(stop, rest)
        self._log()

    async def run_once(self) -> Deleted:
        """Delete the next few tasks whose retention is over, if that is allowed. Return the counts."""
        now = self._clock()
        deleted = await self._store.retention.delete_old(until=now - self._keep, now=now, after=self._after, limit=STEP)
        self._after = deleted.after
        self._unlogged += deleted.tasks
        return deleted

    async def _step(self) -> bool:
        """Do one step, and return whether there is more to do at once."""
        more = False
        with self._failures.survived():
            deleted = await self.run_once()
            more = deleted.after is not None or STEP in {
                deleted.orphans,
                deleted.alarms,
                deleted.tombstones,
                deleted.audits,
                deleted.helper_calls,
            }
            if not more or self._unlogged >= LOGGED_TASKS:
                self._log()
        return more

    def _log(self) -> None:
        if self._unlogged:
            log.info("deleted %d tasks that were kept for %s", self._unlogged, self._keep)
            self._unlogged = 0
