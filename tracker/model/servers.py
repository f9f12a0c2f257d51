"""The processes that serve one database."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from tracker.model.clock import Reading


class Part(StrEnum):
    """What a process may run."""

    RECEIVER = "receiver"
    API = "api"
    LOOPS = "loops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process that serves a shared database; ``parts`` is what it runs."""

    owner: str
    host: str
    pid: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A process that fell silent, and how many of its tasks others may ask about now."""

    server: Server
    silent_for: timedelta
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a process learns when it says that it is alive: who else is, whose work was freed, and what time it is."""

    alive: tuple[Server, ...]
    taken: tuple[TakenOver, ...]
    reading: Reading
