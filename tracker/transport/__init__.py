"""Calls that leave by HTTP, to providers and to whoever wants to be told: what knows httpx and httpcore is here alone.

Each call has one hard deadline over everything (connecting, sending, waiting, a dripping body), and ends in a reply or
in one of two errors that differ in the only thing that matters for a submit: whether the provider may have it.

Names are imported when they are used: a command that only reads the database needs no HTTP library.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracker.transport.guarded_http import Answer, Poster, TargetRefused, dial_target
    from tracker.transport.provider_http import Transport
    from tracker.transport.sender import NoTransport, Sender

__all__ = [
    "Answer",
    "NoTransport",
    "Poster",
    "Sender",
    "TargetRefused",
    "Transport",
    "dial_target",
]
MODULES: Final = MappingProxyType(
    {
        **dict.fromkeys(("Answer", "Poster", "TargetRefused", "dial_target"), "guarded_http"),
        **dict.fromkeys(("NoTransport", "Sender"), "sender"),
        "Transport": "provider_http",
    }
)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name is
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
