"""An account shows its current reasons, the most important first."""

from datetime import timedelta

import pytest

from tests.support.builders import NOW
from tracker.api.rendering import BUDGET_SHOWN, account
from tracker.model.records import AccountState
from tracker.model.task import Trouble


def known(trouble: Trouble | None, *, passed: timedelta = timedelta()) -> AccountState:
    return AccountState(
        provider="kling",
        account="default",
        trouble=trouble,
        why="made up",
        since=NOW - passed,
        at=NOW - passed,
        answered_at=None,
        paused_until=NOW + timedelta(seconds=5) - passed,
        waited_at=NOW - passed,
    )


@pytest.mark.parametrize(
    ("trouble", "reasons"),
    [
        (Trouble.CREDENTIAL, ["credential", "budget", "paused"]),
        (Trouble.OUTAGE, ["budget", "paused", "outage"]),
        (Trouble.UNREADABLE, ["budget", "paused", "unreadable"]),
        (None, ["budget", "paused"]),
    ],
)
def test_account_reasons_are_ordered(trouble: Trouble | None, reasons: list[str]) -> None:
    assert [one.reason for one in account(known(trouble), NOW)] == reasons


def test_past_account_reasons_are_left_out() -> None:
    passed = account(known(Trouble.OUTAGE, passed=BUDGET_SHOWN), NOW)

    assert [one.reason for one in passed] == ["outage"]
    assert account(None, NOW) == []
