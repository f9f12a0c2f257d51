"""Tests of failures in a repeated action: it continues, and the log shows each start, change and end."""

import asyncio
import logging

import pytest

from tracker.errors import StoreUnavailable
from tracker.service.repeat import Failures

LOG = logging.getLogger("homing.made_up")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger=LOG.name)
    return caplog


def fail(failures: Failures, error: Exception | None) -> None:
    with failures.survived():
        if error is not None:
            raise error


def test_each_failure_change_is_logged_once(lines: pytest.LogCaptureFixture) -> None:
    failures = Failures(LOG, "it cannot work", "it works again")

    for error in (None, StoreUnavailable("away"), StoreUnavailable("away"), KeyError("secret"), None, None):
        fail(failures, error)

    assert lines.messages == ["it cannot work: away", "it cannot work: KeyError", "it works again"]


def test_recovery_without_message_is_silent(lines: pytest.LogCaptureFixture) -> None:
    failures = Failures(LOG, "it cannot work")

    for error in (StoreUnavailable("away"), None, StoreUnavailable("away")):
        fail(failures, error)

    assert lines.messages == ["it cannot work: away"] * 2


def test_cancellation_is_not_a_failure() -> None:
    with pytest.raises(asyncio.CancelledError), Failures(LOG, "it cannot work").survived():
        raise asyncio.CancelledError
