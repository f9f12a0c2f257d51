"""Calls that leave by HTTP, to providers and to whoever wants to be told: what knows httpx and httpcore is here alone.

Each call has one hard deadline over everything (connecting, sending, waiting, a dripping body), and ends in a reply or
in one of two errors that differ in the only thing that matters for a submit: whether the provider may have it.
"""

from tracker.transport.guarded_http import Answer, Poster, TargetRefused, dial_target
from tracker.transport.provider_http import Sender, Transport

__all__ = [
    "Answer",
    "Poster",
    "Sender",
    "TargetRefused",
    "Transport",
    "dial_target",
]
