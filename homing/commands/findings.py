"""What the checks of `homing doctor` find."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The level of a finding. A ``wrong`` one makes the exit status 1."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    level: Level
    detail: str
