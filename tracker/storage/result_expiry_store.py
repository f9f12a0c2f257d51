"""Warnings about results that expire soon: once per task, across all processes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select, update

from tracker.model.changes import RaisedAlarm
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm, Status
from tracker.storage import alarms, rows
from tracker.storage.alarm_log import AlarmLog
from tracker.storage.engine import bulk, event_order
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.tables import COUNTERS, TASKS

# The end time of the last checked task, in microseconds.
MARK: Final = "results looked at of "


class ResultExpiryStore(TableStore):
    """Raises alarms for results that expire soon."""

    def __init__(self, database: Database, alarm_log: AlarmLog) -> None:
        super().__init__(database)
        self._alarm_log = alarm_log

    async def warn(self, provider: str, *, lifetime: timedelta, notice: timedelta, now: datetime, limit: int) -> int:
        """Raise an alarm for the next tasks whose results expire within ``notice``. Return how many there were.

        Results that already had less time left at the first call are skipped.
        """
        raised = await self._warn(provider, lifetime=lifetime, notice=notice, now=now, limit=limit)
        self._alarm_log.say(raised)
        return sum(alarm.count for alarm in raised)

    @write_transaction
    def _warn(
        self,
        connection: Connection,
        provider: str,
        *,
        lifetime: timedelta,
        notice: timedelta,
        now: datetime,
        limit: int,
    ) -> Sequence[AlarmCount]:
        name = MARK + provider
        until = rows.stamp(now - lifetime + notice)
        connection.execute(upsert(connection, COUNTERS).values(name=name, value=until).on_conflict_do_nothing())
        mark = connection.execute(
            select(COUNTERS.c.value).where(COUNTERS.c.name == name).with_for_update()
        ).scalar_one()
        ended = select(TASKS.c.id, TASKS.c.finished_at).where(
            TASKS.c.finished_at > mark,
            TASKS.c.finished_at <= until,
            TASKS.c.provider == provider,
            TASKS.c.status == Status.SUCCEEDED.value,
        )
        found = connection.execute(ended.order_by(TASKS.c.finished_at, TASKS.c.id).limit(limit)).all()
        if len(found) == limit:
            # All tasks with the same end time, because the mark is a time.
            until = found[-1].finished_at
            found = connection.execute(ended.where(TASKS.c.finished_at <= until)).all()
        raised = alarms.folded(
            RaisedAlarm(
                kind=Alarm.EXPIRING_RESULT,
                provider=provider,
                at=now,
                task_id=task_id,
                detail=f"its results stop working at {rows.moment(at) + lifetime:%Y-%m-%d %H:%M} UTC",
            )
            for task_id, at in found
        )
        dialect = connection.dialect.name
        for statement in (
            *alarms.count(dialect, raised),
            *event_order.hold_order(dialect),
            *alarms.write_events(dialect, raised),
        ):
            bulk.run(connection, statement)
        advanced = update(COUNTERS).where(COUNTERS.c.name == name, COUNTERS.c.value < until)
        connection.execute(advanced.values(value=until))
        return raised
