"""Outbound HTTP: calls to providers and webhooks. Only this package uses httpx and httpcore.

Each call has one hard deadline for everything (connecting, sending, waiting, a slow body). It ends in a reply or in one
of two errors. They differ in what matters for a submission: whether the provider may have received it.

Names are imported on first use, because a command that only reads the database needs no HTTP library.
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
