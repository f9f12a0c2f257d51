"""A sink as it is configured, its progress, and its pending and dead deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import msgspec

from tracker.model.event_filter import EVERYTHING, EventFilter

# The sink of the clients' callback URLs.
CALLBACKS: Final = "callbacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSpec:
    """A sink as it is configured. Nothing is imported, opened or resolved yet.

    ``target`` is the URL without our options and may hold a secret; ``address`` is what people may see of it.
    ``beginning``: it gets all kept events. ``options`` are those that only this scheme has. ``signed_per`` says what
    has a signing secret of its own: the sink, or each client; None where nothing is signed.
    """

    name: str
    scheme: str
    target: str = field(repr=False)
    address: str
    filter: EventFilter = EVERYTHING
    beginning: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    signed_per: Literal["sink", "client"] | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """The progress of one sink.

    Every event up to ``cursor`` was delivered, was not for it, or has a Delivery of its own that says why not;
    ``behind`` counts those after it; ``at_least``: there may be more. ``waiting`` and ``dead`` count Deliveries.
    ``oldest_at`` is when its first undelivered event happened. ``failures`` counts the failures since the last
    success. If it is off with failures, its endpoint answered 410; if it is off without failures, an operator
    turned it off. ``owner`` is the process that delivers to it, until ``lease_until``.
    """

    name: str
    address: str
    on: bool
    cursor: int
    behind: int
    waiting: int
    dead: int
    delivered: int
    oldest_at: datetime | None
    failures: int
    last_error: str
    last_error_at: datetime | None
    delivered_at: datetime | None
    retry_at: datetime | None
    owner: str | None
    lease_until: datetime | None
    at_least: bool = False

    @property
    def refused(self) -> bool:
        """Return whether its receiver turned it off: with ``last_error``, at ``last_error_at``."""
        return not self.on and self.failures > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event that a sink did not accept at once. It is retried at ``next_at``, or is a dead letter if that is None.

    ``cursor`` is the event's; ``attempts`` is 0 where it waits behind an earlier event of its task.
    """

    sink: str
    cursor: int
    event_id: str
    type: str
    task_id: str | None
    attempts: int
    error: str
    first_at: datetime
    last_at: datetime
    next_at: datetime | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a sink did not accept: when to retry, None for never. ``attempts`` counts all so far."""

    cursor: int
    task_id: str | None
    attempts: int
    error: str
    next_at: datetime | None


class ProgressUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What became of some events at one sink.

    ``cursor`` moves only forward, None leaves it. ``delivered`` are events that had a Delivery and need none any more;
    ``delivered_count`` counts all that were delivered. The rest is the sink's state from now on (see SinkState).
    """

    cursor: int | None = None
    delivered: tuple[int, ...] = ()
    failed: tuple[Failure, ...] = ()
    delivered_count: int = 0
    failures: int = 0
    error: str = ""
    retry_at: datetime | None = None
    off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFilter:
    """Which events to replay to a sink: those of a task, of a time, or the ``dead`` letters; what is given narrows."""

    task_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    dead: bool = False
