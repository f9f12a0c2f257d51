"""What is wrong with a callback, where the tree of ``tracker.errors`` has no name for it yet.

CallerError
├── NotProven        401  carries ``reason``: a signature that is missing, wrong or stale
└── Disconnected          the sender left before its body was complete; nobody is there to be answered
"""

from enum import StrEnum

from tracker.errors import CallerError


class Reason(StrEnum):
    """Why a callback is not verified by its signature."""

    MISSING = "missing"
    WRONG = "wrong"
    STALE = "stale"


class NotProven(CallerError):
    """The one error of every verifier, whatever bytes it is fed."""

    status = 401
    title = "Signature refused"

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Disconnected(CallerError):
    """The sender left before its body was complete."""

    title = "Disconnected"
