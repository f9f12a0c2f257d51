"""A circuit breaker for each endpoint of a sink. It decides how many events may be sent there now. Pure.

If several different events fail in a row, the circuit opens and blocks the endpoint. It then probes the endpoint with
one event at a time, and the first success closes it. A single event that fails repeatedly opens no circuit, because the
event itself may be the cause.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.sinks.base import Outcome

# The number of different events that must fail in a row.
FAILURES_TO_OPEN: Final = 3
# Above this number of circuits, the healthy ones are dropped. If that is not enough, all without events in flight are
# dropped.
MOST_CIRCUITS: Final = 10_000
UNLIMITED: Final = 1 << 30


class Turn(StrEnum):
    """The queue that sends: new events or pending deliveries. The two queues take turns at probing."""

    NEW = "new"
    PENDING = "pending"


@dataclass(slots=True)
class Circuit:
    """The state of one endpoint.

    ``proven`` is set once the endpoint accepted an event. ``slow_at`` is the time since which it makes other endpoints
    wait. ``retry_at`` is set while the circuit is open. ``failures`` counts the failed attempts since the last success.
    They may all be of one event.
    """

    proven: bool = False
    sending: int = 0
    slow_at: datetime | None = None
    refused: set[int] = field(default_factory=set)
    failures: int = 0
    probes: int = 0
    open_since: datetime | None = None
    retry_at: datetime | None = None
    probed_by: Turn | None = None
    wait: timedelta = timedelta()

    @property
    def idle(self) -> bool:
        return not self.sending and not self.refused and self.slow_at is None

    @property
    def failing(self) -> bool:
        """Return whether several attempts in a row failed, of the same event or of different ones."""
        return self.failures >= FAILURES_TO_OPEN

    @property
    def prompt(self) -> bool:
        """Return whether the endpoint accepted an event before and makes no other endpoint wait now."""
        return self.proven and self.slow_at is None

    def ready_at(self, turn: Turn) -> datetime | None:
        """Return when an open circuit may be probed. After a probe, the other queue may go first."""
        if self.retry_at is None or turn is not self.probed_by:
            return self.retry_at
        return self.retry_at + min(self.wait, backoff.PROBE_MOST) / 4

    def room(self, turn: Turn, now: datetime) -> int:
        """Return how many events may be sent now. It is one at a time while the endpoint is not known to work."""
        ready_at = self.ready_at(turn)
        # If the clock was set back, do not wait until it reaches the old time again.
        if self.retry_at is not None and ready_at is not None and self.retry_at - self.wait <= now < ready_at:
            return 0
        if self.sending and self.slow_at is not None:
            return 0
        if self.proven and not self.refused and ready_at is None:
            return UNLIMITED
        return 0 if self.sending else 1


class Circuits:
    """The circuits of one sink. ``chance`` returns numbers in [0, 1). ``most`` is the maximum number of circuits."""

    def __init__(self, chance: Callable[[], float], *, most: int = MOST_CIRCUITS) -> None:
        self._chance = chance
        self._most = most
        self._circuits: dict[str, Circuit] = {}

    def of(self, name: str) -> Circuit:
        circuit = self._circuits.get(name)
        if circuit is None:
            if len(self._circuits) >= self._most:
                self._forget()
            circuit = self._circuits[name] = Circuit()
        return circuit

    def __len__(self) -> int:
        return len(self._circuits)

    def _forget(self) -> None:
        in_trouble = {name: one for name, one in self._circuits.items() if not one.idle}
        if len(in_trouble) > self._most // 2:
            in_trouble = {name: one for name, one in in_trouble.items() if one.sending}
        self._circuits = in_trouble

    def sending(self, name: str, count: int) -> None:
        """Note that ``count`` more events are in flight. A negative count means that their outcome is unknown."""
        self.of(name).sending += count

    def note_speed(self, name: str, *, slow: bool, now: datetime) -> None:
        """Note whether an endpoint made others wait. A slow endpoint stays slow while it has events in flight."""
        circuit = self.of(name)
        if slow:
            circuit.slow_at = circuit.slow_at or now
        elif not circuit.sending:
            circuit.slow_at = None

    def note(
        self, name: str, cursors: Sequence[int], outcomes: Sequence[Outcome], *, turn: Turn, now: datetime
    ) -> bool:
        """Note the outcomes of events. Return True if this closes an open circuit."""
        circuit = self.of(name)
        circuit.sending -= len(cursors)
        if any(outcome.delivered for outcome in outcomes):
            recovered = circuit.retry_at is not None
            circuit.proven, circuit.probes, circuit.open_since, circuit.retry_at, circuit.probed_by = (
                True,
                0,
                None,
                None,
                None,
            )
            circuit.refused.clear()
            circuit.failures = 0
            return recovered
        # A hopeless event is itself the cause, so it does not count against the endpoint.
        refused = [(at, each) for at, each in zip(cursors, outcomes, strict=True) if not each.hopeless]
        circuit.failures += len(refused)
        circuit.refused.update(cursor for cursor, _ in refused[: FAILURES_TO_OPEN - len(circuit.refused)])
        if refused and len(circuit.refused) >= FAILURES_TO_OPEN:
            retry_after = max((each.retry_after for _, each in refused if each.retry_after is not None), default=None)
            circuit.probes += 1
            circuit.open_since = circuit.open_since or now
            circuit.wait = backoff.probe_in(circuit.probes, chance=self._chance(), retry_after=retry_after)
            circuit.retry_at, circuit.probed_by = now + circuit.wait, turn
        return False

    def probe_by(self, name: str) -> datetime | None:
        """Return when to retry an event that failed while its circuit is open, so that a probe has an event.

        Another event goes first if one is due. Return None if the circuit is closed. Then the event has its own delay.
        """
        circuit = self.of(name)
        ready_at = circuit.ready_at(Turn.PENDING)
        return None if ready_at is None else ready_at + circuit.wait

    def aside_until(self, name: str, now: datetime) -> datetime:
        """Return until which time to put aside events for which an endpoint has no free slot."""
        circuit = self.of(name)
        wait = backoff.aside_in(
            open_for=now - (circuit.open_since or now), slow_for=now - (circuit.slow_at or now), chance=self._chance()
        )
        return max(now + wait, circuit.retry_at or now)

    @property
    def retry_at(self) -> datetime | None:
        """Return when the first open circuit is probed again."""
        return min((one.retry_at for one in self._circuits.values() if one.retry_at is not None), default=None)
