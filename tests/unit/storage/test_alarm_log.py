"""Tests of alarms in the log: one line per hour for each kind and provider."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.builders import NOW
from tracker.model.records import AlarmCount
from tracker.model.task import Alarm
from tracker.storage.alarm_log import HOUR, MEANINGS, AlarmLog


def an_alarm(**changes: Any) -> AlarmCount:
    values: dict[str, Any] = {
        "kind": Alarm.CREDENTIAL,
        "provider": "kling",
        "hour": NOW,
        "count": 3,
        "last_at": NOW,
        "task_id": "hm1",
        "detail": "made-up text of the provider",
    }
    return AlarmCount(**(values | changes))


def test_alarm_kind_is_logged_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    log = AlarmLog()

    log.say([an_alarm(), an_alarm(last_at=NOW + timedelta(minutes=59))])
    log.say([an_alarm(kind=Alarm.ORPHAN), an_alarm(provider="other"), an_alarm(last_at=NOW + HOUR)])

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["alarm credential", "alarm orphan", *["alarm credential"] * 2]
    assert "the provider refuses the credential (provider kling, task hm1)" in lines[0]


def test_alarm_line_hides_provider_text(caplog: pytest.LogCaptureFixture) -> None:
    AlarmLog().say([an_alarm()])

    assert "made-up text" not in caplog.text


def test_every_alarm_has_a_meaning() -> None:
    assert MEANINGS.keys() == set(Alarm)
