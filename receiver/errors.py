"""The errors of callbacks that ``tracker.errors`` does not define.

ClientError
├── NotProven        401  carries ``reason``: a signature that is missing, wrong or stale
└── Disconnected          the sender disconnected before its body was complete; no answer is possible
"""

from enum import StrEnum

from tracker.errors import ClientError


class Reason(StrEnum):
    """Why the receiver cannot verify a callback by its signature."""

    MISSING = "missing"
    WRONG = "wrong"
    STALE = "stale"


class NotProven(ClientError):
    """The signature is missing, wrong or stale. A verifier raises no other error."""

    status = 401
    title = "Signature refused"

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Disconnected(ClientError):
    """The sender disconnected before its body was complete."""

    title = "Disconnected"
