"""Logs committed alarms: each kind of each provider at most once an hour."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tracker.model.records import AlarmCount
from tracker.model.task import Alarm

log: Final = logging.getLogger("homing.alarms")

HOUR: Final = timedelta(hours=1)
# The log text of each alarm. The log must not quote a provider or a sender.
MEANINGS: Final = MappingProxyType(
    {
        Alarm.CONTRADICTION: "two final reports about one task contradict each other",
        Alarm.BAD_SIGNATURE: "a callback's signature is wrong",
        Alarm.STALE_SIGNATURE: "a callback's signature is valid but too old or too new: a replay, or a wrong clock",
        Alarm.UNSIGNED: "a callback came without the signature that the settings expect",
        Alarm.MISMATCH: "a report does not carry the IDs of the task that it came for",
        Alarm.UNKNOWN_STATUS: "the provider reports a status that Homing does not know",
        Alarm.UNREADABLE: "a callback cannot be read",
        Alarm.UNREADABLE_ANSWER: "the provider's answers to polls cannot be read",
        Alarm.ORPHAN: "a callback came for an unknown task",
        Alarm.CREDENTIAL: "the provider refuses the credential",
        Alarm.NO_SUCH_CALL: "the provider's address does not have the call that creates tasks",
        Alarm.UNRESOLVED: "it is unknown whether the provider has a task",
        Alarm.UNANSWERED_CALL: "it is unknown whether the provider did a call that costs or makes something",
        Alarm.EMPTY_RESULT: "a task succeeded without results",
        Alarm.EXPIRING_RESULT: "the results of a task stop working soon",
        Alarm.CONFLICT: "the provider did not decide between two contradictory ends of a task",
        Alarm.DATABASE_CHANGED: "the database was restored, or another server took over",
        Alarm.REVIVED: "a task that was rejected exists at the provider",
    }
)


class AlarmLog:
    """Writes the log lines of one process about committed alarms."""

    def __init__(self) -> None:
        self._said: dict[tuple[Alarm, str], datetime] = {}

    def say(self, alarms: Iterable[AlarmCount]) -> None:
        """Write a WARNING for each alarm that is the first of its kind and provider in an hour."""
        for alarm in alarms:
            key = (alarm.kind, alarm.provider)
            last = self._said.get(key)
            if last is not None and abs(alarm.last_at - last) < HOUR:
                continue
            self._said[key] = alarm.last_at
            meaning = MEANINGS.get(alarm.kind, alarm.kind.value)
            log.warning(
                "alarm %s: %s (provider %s, task %s). Homing counts more of them for an hour: see `homing stats`",
                alarm.kind.value,
                meaning,
                alarm.provider,
                alarm.task_id or "none",
            )
