"""A stand-in for Kling over real HTTP, for the demo, for drills and for tests.

It plays the provider's side from the published description alone: it imports nothing of `receiver` or `tracker`, so
that a mistake in how Homing reads the protocol cannot hide in a twin of itself. What is documented, what others saw
live and what is assumed stands in `docs/reference/sandbox.md`.

The heavy names below load on first use: the pytest plugin beside them is imported in every test run of every user,
and must not bring a web server with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from homing.sandbox.faults import FAULTS
from homing.sandbox.settings import SandboxSettings, SandboxSettingsError

if TYPE_CHECKING:
    from homing.sandbox.server import RunningSandbox, Sandbox, serve_in_thread

__all__ = [
    "FAULTS",
    "RunningSandbox",
    "Sandbox",
    "SandboxSettings",
    "SandboxSettingsError",
    "serve_in_thread",
]

_LAZY = frozenset({"RunningSandbox", "Sandbox", "serve_in_thread"})


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module("homing.sandbox.server"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
