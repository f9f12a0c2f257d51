"""The receivers behind a sink, as far as they were met: which of them may be sent something now. Pure.

A receiver that refuses several different events and takes none in between is left alone, its lane closed, and then
probed with one event at a time; the first success opens it. One event that is refused again and again closes nothing:
that may be its own fault.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from tracker.delivery import backoff
from tracker.delivery.sinks.base import Outcome

# So many different events.
CLOSING: Final = 3
# Beyond so many lanes those are forgotten that nothing is the matter with; if that is too little, the others too.
MET: Final = 10_000
ALL: Final = 1 << 30


class Turn(StrEnum):
    """Who sends: events that are new, or those that are owed. They take turns at probing."""

    FRESH = "fresh"
    OWED = "owed"


@dataclass(slots=True)
class Lane:
    """What is known of one receiver.

    ``proven`` once it took something; ``slow_at`` since when it lets others wait; ``retry_at`` where it is closed.
    ``failures`` counts the attempts since it took something, which may all be of one event.
    """

    proven: bool = False
    sending: int = 0
    slow_at: datetime | None = None
    refused: set[int] = field(default_factory=set)
    failures: int = 0
    probes: int = 0
    closed_at: datetime | None = None
    retry_at: datetime | None = None
    probed_by: Turn | None = None
    wait: timedelta = timedelta()

    @property
    def idle(self) -> bool:
        return not self.sending and not self.refused and self.slow_at is None

    @property
    def failing(self) -> bool:
        """Return whether it took nothing for several attempts, of whatever events."""
        return self.failures >= CLOSING

    @property
    def prompt(self) -> bool:
        """Return whether it took something, and lets nobody wait now."""
        return self.proven and self.slow_at is None

    def ready_at(self, turn: Turn) -> datetime | None:
        """Return from when on a closed lane may be probed; whoever did so last lets the other go first."""
        if self.retry_at is None or turn is not self.probed_by:
            return self.retry_at
        return self.retry_at + min(self.wait, backoff.LANE_MOST) / 4

    def room(self, turn: Turn, now: datetime) -> int:
        """Return how many events may be sent now: of one that is in doubt, only one at a time."""
        ready_at = self.ready_at(turn)
        # A clock that was set back since is not waited for.
        if self.retry_at is not None and ready_at is not None and self.retry_at - self.wait <= now < ready_at:
            return 0
        if self.sending and self.slow_at is not None:
            return 0
        if self.proven and not self.refused and ready_at is None:
            return ALL
        return 0 if self.sending else 1


class Lanes:
    """The lanes of one sink. ``chance`` gives numbers in [0, 1); ``most`` is how many are remembered."""

    def __init__(self, chance: Callable[[], float], *, most: int = MET) -> None:
        self._chance = chance
        self._most = most
        self._lanes: dict[str, Lane] = {}

    def of(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) >= self._most:
                self._forget()
            lane = self._lanes[name] = Lane()
        return lane

    def __len__(self) -> int:
        return len(self._lanes)

    def _forget(self) -> None:
        in_trouble = {name: one for name, one in self._lanes.items() if not one.idle}
        if len(in_trouble) > self._most // 2:
            in_trouble = {name: one for name, one in in_trouble.items() if one.sending}
        self._lanes = in_trouble

    def sending(self, name: str, count: int) -> None:
        """Note that so many events are on their way, or, below 0, that nobody knows what became of them."""
        self.of(name).sending += count

    def pace(self, name: str, *, slow: bool, now: datetime) -> None:
        """Note whether a lane kept others waiting; it still does as long as something is on its way there."""
        lane = self.of(name)
        if slow:
            lane.slow_at = lane.slow_at or now
        elif not lane.sending:
            lane.slow_at = None

    def note(
        self, name: str, cursors: Sequence[int], outcomes: Sequence[Outcome], *, turn: Turn, now: datetime
    ) -> bool:
        """Note what became of events that were on their way; True where that opens a lane that was closed."""
        lane = self.of(name)
        lane.sending -= len(cursors)
        if any(outcome.delivered for outcome in outcomes):
            opened = lane.retry_at is not None
            lane.proven, lane.probes, lane.closed_at, lane.retry_at, lane.probed_by = True, 0, None, None, None
            lane.refused.clear()
            lane.failures = 0
            return opened
        # What can never do is the event's own fault.
        refused = [(at, each) for at, each in zip(cursors, outcomes, strict=True) if not each.hopeless]
        lane.failures += len(refused)
        lane.refused.update(cursor for cursor, _ in refused[: CLOSING - len(lane.refused)])
        if refused and len(lane.refused) >= CLOSING:
            asked = max((each.retry_after for _, each in refused if each.retry_after is not None), default=None)
            lane.probes += 1
            lane.closed_at = lane.closed_at or now
            lane.wait = backoff.lane_in(lane.probes, chance=self._chance(), asked=asked)
            lane.retry_at, lane.probed_by = now + lane.wait, turn
        return False

    def probe_by(self, name: str) -> datetime | None:
        """Return when an event that a closed lane refused is to come again, so that there is one to probe with.

        It lets another go first, where one is due. None where the lane is open: then the event has to wait by itself.
        """
        lane = self.of(name)
        ready_at = lane.ready_at(Turn.OWED)
        return None if ready_at is None else ready_at + lane.wait

    def aside_until(self, name: str, now: datetime) -> datetime:
        """Return until when to put aside what a lane has no room for."""
        lane = self.of(name)
        wait = backoff.aside_in(
            closed_for=now - (lane.closed_at or now), slow_for=now - (lane.slow_at or now), chance=self._chance()
        )
        return max(now + wait, lane.retry_at or now)

    @property
    def retry_at(self) -> datetime | None:
        """Return when the first closed lane is tried again."""
        return min((one.retry_at for one in self._lanes.values() if one.retry_at is not None), default=None)
