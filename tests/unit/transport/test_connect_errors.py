"""The text of a failed connection: its root cause, and no URL."""

import socket

import pytest

from tracker.transport.connect_errors import connect_problem


def raised_from(cause: BaseException) -> OSError:
    error = OSError("all connection attempts to secret.example failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (ConnectionRefusedError(), "connection refused"),
        (socket.gaierror(), "its name cannot be resolved"),
        (ExceptionGroup("both", [ConnectionRefusedError(), TimeoutError()]), "connection refused"),
        (ValueError("secret.example"), "could not connect"),
    ],
    ids=["refused", "unresolved", "two addresses", "anything else"],
)
def test_connect_problem_names_the_root_cause(cause: BaseException, text: str) -> None:
    assert connect_problem(raised_from(cause)) == text
