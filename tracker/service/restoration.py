"""Starts over when the database returns in another state, after a failover that lost commits or a restored backup.

The store detects this, and continues the event numbers after all earlier ones. This process then drops its memory of
the lost state, and reads the database again.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import HomingError
from tracker.model.changes import Change, RaisedAlarm, RecordChange
from tracker.model.task import Alarm
from tracker.service.callback_urls import CallbackUrls
from tracker.service.feed import Feed
from tracker.service.learner import Learner
from tracker.service.recorder import Recorder
from tracker.storage.store import Store

AGAIN: Final = timedelta(seconds=1)
# Alarms are counted by provider. This alarm belongs to no provider.
OURS: Final = "homing"
DETAIL: Final = (
    "another database server answers, or the database was restored: the latest commits may be lost, "
    "and sinks may receive events again"
)


class Restoration:
    """Drops the process's memory of a database each time that the database returns in another state, until closed."""

    def __init__(
        self,
        store: Store,
        *,
        feed: Feed,
        learner: Learner,
        callback_urls: CallbackUrls,
        recorder: Recorder,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._feed = feed
        self._learner = learner
        self._callback_urls = callback_urls
        self._recorder = recorder
        self._clock = clock
        self._restoring: set[asyncio.Task[None]] = set()
        store.continuity.listen(self._start_over)

    async def close(self) -> None:
        for task in self._restoring:
            task.cancel()
        await asyncio.gather(*self._restoring, return_exceptions=True)

    def _start_over(self) -> None:
        self._feed.start_over()
        self._learner.forget()
        restoring = asyncio.create_task(self._restore(), name="homing restoration")
        self._restoring.add(restoring)
        restoring.add_done_callback(self._restoring.discard)

    async def _restore(self) -> None:
        """Record the secrets in use again, and raise the alarm. Retry while the database is unavailable."""
        while True:
            with suppress(HomingError):
                await self._store.secrets.record_again()
                await self._callback_urls.open()
                alarm = RaisedAlarm(
                    kind=Alarm.DATABASE_CHANGED, provider=OURS, at=self._clock(), task_id=None, detail=DETAIL
                )
                await self._recorder.apply(RecordChange(Change(result=None, alarms=(alarm,))))
                return
            await asyncio.sleep(AGAIN.total_seconds())
