"""A stand-in for Kling over real HTTP, for the demo, for experiments and for tests.

It implements the provider's side from the published documentation only. It imports nothing from `receiver` or
`tracker`, so it cannot repeat a mistake in how Homing reads the protocol. `docs/reference/sandbox.md` lists what is
documented, what others observed live and what is assumed.

The names below that need a web server are imported on first use, because every test run imports the pytest plugin of
this package.
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
