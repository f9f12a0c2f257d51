"""A configured sink, its progress, its pending deliveries and its dead letters."""

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
    """A configured sink. Nothing is imported, opened or resolved yet.

    ``target`` is the URL without Homing's options and may contain a secret. ``address`` is the URL without secrets.
    With ``beginning``, it gets all stored events. ``options`` are the options that only this scheme has. ``signed_per``
    says whether the sink or each client has a signing secret. None means that nothing is signed.
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

    Every event up to ``cursor`` was delivered, does not match the filter, or has a Delivery. ``behind`` counts the
    events after it; with ``at_least`` there may be more. ``waiting`` and ``dead`` count Deliveries. ``oldest_at`` is
    the time of the first undelivered event. ``failures`` counts the failures since the last success. If the sink is
    off with failures, its endpoint answered 410. If it is off without failures, an operator turned it off. ``owner``
    is the process that delivers to it, until ``lease_until``.
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
        """Return whether the endpoint turned the sink off. ``last_error`` and ``last_error_at`` say why and when."""
        return not self.on and self.failures > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event that a sink did not accept at once. It is retried at ``next_at``, or is a dead letter if that is None.

    ``cursor`` is the event's. ``attempts`` is 0 if it waits for an earlier event of its task.
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
    """An event that a sink did not accept, and when to retry it (None: never). ``attempts`` counts all attempts."""

    cursor: int
    task_id: str | None
    attempts: int
    error: str
    next_at: datetime | None


class ProgressUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """The results of some events at one sink.

    ``cursor`` only moves forward; None does not change it. ``delivered`` are events whose Delivery ends.
    ``delivered_count`` counts all delivered events. The other fields are the new state of the sink (see SinkState).
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
    """The events to replay to a sink. An event must match every field. ``dead``: only dead letters."""

    task_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    dead: bool = False
