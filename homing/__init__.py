"""Homing: receives the callbacks of asynchronous media tasks, and keeps one correct row for each task."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

# They are installed beside this package.
PACKAGES: Final = ("tracker", "receiver")
# It stands in for the provider and needs neither: a test run may use it whatever the project's modules are called.
ALONE: Final = "homing.sandbox"


class Shadowed:
    """An import finder that refuses Homing's modules, but for the sandbox, with one line that says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for what others should look for. Raises ImportError."""
        if name.startswith("homing.") and not f"{name}.".startswith(f"{ALONE}."):
            raise ImportError(self._reason)
        return None


def shadowing() -> str | None:
    """Return which file hides a package of Homing, and what to do; None where none does."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = _file_of(name)
        if found is not None and found.resolve().parent.parent != home:
            return f"{found} hides the package `{name}` of Homing: rename it, or start Python in another folder"
    return None


def _file_of(name: str) -> Path | None:
    """Return the file that `import` takes or took for a package, without running it."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded)
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


if (reason := shadowing()) is not None:
    sys.meta_path.insert(0, Shadowed(reason))
