"""The processes that serve one database."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from tracker.model.clock import Reading


class Part(StrEnum):
    """The roles of a process."""

    RECEIVER = "receiver"
    API = "api"
    LOOPS = "loops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process that serves a shared database. ``parts`` are its roles."""

    owner: str
    host: str
    pid: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A process without heartbeats, and the number of its tasks that other processes may poll now."""

    server: Server
    silent_for: timedelta
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The answer to a heartbeat: the live processes, the released work, and the time of the database."""

    alive: tuple[Server, ...]
    taken: tuple[TakenOver, ...]
    reading: Reading
