"""Homing receives the callbacks of asynchronous media tasks and keeps one correct row for each task.

The names below are the public API. Each is imported on first use, so `import homing` costs nothing.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from homing.serve import Homing
    from tracker.api import Access, create_api, routes
    from tracker.delivery.sinks.subscriber import Subscriber
    from tracker.errors import (
        ClientError,
        Conflict,
        CredentialRefused,
        HomingError,
        InvalidRequest,
        NotFound,
        Overloaded,
        ProviderUnavailable,
        Refused,
        ServiceError,
        SettingsError,
        StoreUnavailable,
    )
    from tracker.model.keys import ClientKey, NamedKey
    from tracker.model.records import TaskFilter, TaskPage
    from tracker.model.servers import Part
    from tracker.model.task import ClientIdentity, Created, Expected, Status, Task
    from tracker.rules.schedule import Policy
    from tracker.service.creation import CreateRequest
    from tracker.service.tracker import Tracker
    from tracker.settings import Settings, load_settings

__all__ = [
    "Access",
    "ClientError",
    "ClientIdentity",
    "ClientKey",
    "Conflict",
    "CreateRequest",
    "Created",
    "CredentialRefused",
    "Expected",
    "Homing",
    "HomingError",
    "InvalidRequest",
    "NamedKey",
    "NotFound",
    "Overloaded",
    "Part",
    "Policy",
    "ProviderUnavailable",
    "Refused",
    "ServiceError",
    "Settings",
    "SettingsError",
    "Status",
    "StoreUnavailable",
    "Subscriber",
    "Task",
    "TaskFilter",
    "TaskPage",
    "Tracker",
    "create_api",
    "load_settings",
    "routes",
]

# The module that defines each public name. The names that are not listed are in tracker.errors.
ERRORS: Final = "tracker.errors"
DEFINED_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Access": "tracker.api",
        "ClientIdentity": "tracker.model.task",
        "ClientKey": "tracker.model.keys",
        "CreateRequest": "tracker.service.creation",
        "Created": "tracker.model.task",
        "Expected": "tracker.model.task",
        "Homing": "homing.serve",
        "NamedKey": "tracker.model.keys",
        "Part": "tracker.model.servers",
        "Policy": "tracker.rules.schedule",
        "Settings": "tracker.settings",
        "Status": "tracker.model.task",
        "Subscriber": "tracker.delivery.sinks.subscriber",
        "Task": "tracker.model.task",
        "TaskFilter": "tracker.model.records",
        "TaskPage": "tracker.model.records",
        "Tracker": "tracker.service.tracker",
        "create_api": "tracker.api",
        "load_settings": "tracker.settings",
        "routes": "tracker.api",
    }
)

# These packages are installed next to this one.
PACKAGES: Final = ("tracker", "receiver")
# The sandbox needs neither package. A test run may use it whatever the names of the project's modules are.
ALONE: Final = "homing.sandbox"


class Shadowed:
    """An import finder that refuses Homing's modules, except the sandbox, with one line that says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for modules that other finders handle.

        Raises: ImportError.
        """
        if name.startswith("homing.") and not f"{name}.".startswith(f"{ALONE}."):
            raise ImportError(self._reason)
        return None


def shadowing() -> str | None:
    """Return which file hides a package of Homing and what to do, or None."""
    folder = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = _file_of(name)
        if found is not None and found.resolve().parent.parent != folder:
            return f"{found} hides the package `{name}` of Homing. Rename it, or start Python in another folder"
    return None


def _file_of(name: str) -> Path | None:
    """Return the file from which `import` loads a package, without running it."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the public name stands for
    """Import a public name on first use. Raises ImportError if another module hides Homing's packages."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if HIDDEN is not None:
        raise ImportError(HIDDEN)
    value = getattr(import_module(DEFINED_IN.get(name, ERRORS)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


HIDDEN: Final = shadowing()
if HIDDEN is not None:
    sys.meta_path.insert(0, Shadowed(HIDDEN))
