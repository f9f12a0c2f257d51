"""The time that all replicas share: this machine's clock, corrected by the measured difference to the database's.

Durations and pauses are measured on the monotonic clock, which nobody can set: seconds since any moment, as a float.

The database reads its clock at an unknown moment between two local times. The shorter that interval, the more exact is
the reading. Pure except for reading this machine's clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final

READINGS: Final = 8
# Less than that is a clock being adjusted, or a slow reading, and not one being set.
SET_BY: Final = timedelta(seconds=2)
Monotonic = Callable[[], float]
# Returns so many random bytes, which nobody can guess.
RandomBytes = Callable[[int], bytes]


def utc_now() -> datetime:
    """Read the machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the database's clock said (``at``), between two times of our own."""

    before: datetime
    at: datetime
    after: datetime

    @property
    def ahead(self) -> timedelta:
        """How far the database's clock is ahead of ours, give or take ``error``."""
        return self.at - self.before - self.error

    @property
    def error(self) -> timedelta:
        return (self.after - self.before) / 2


def offset(readings: Sequence[Reading]) -> timedelta:
    """How far the database's clock is ahead, by the surest of the latest readings that agree with each other.

    One that contradicts the latest was taken before somebody set one of the clocks, and counts no more.
    """
    latest = readings[-1]

    def agrees(one: Reading) -> bool:
        return abs(one.ahead - latest.ahead) <= one.error + latest.error

    return min(takewhile(agrees, reversed(readings)), key=lambda one: one.error).ahead


class SteeredClock:
    """The machine's clock, ``own``, until readings of a database's clock say how far that is ahead."""

    def __init__(self, own: Callable[[], datetime] = utc_now) -> None:
        self.own = own
        self.ahead = timedelta()
        self._readings: deque[Reading] = deque(maxlen=READINGS)

    def __call__(self) -> datetime:
        return self.own() + self.ahead

    def steer(self, reading: Reading) -> None:
        """Follow the database's clock from now on; a reading during which our own was set back is no measure."""
        if reading.after >= reading.before:
            self._readings.append(reading)
            self.ahead = offset(self._readings)


class Deadline:
    """A moment on the monotonic clock, ``within`` from now; no setting of the wall clock moves it."""

    def __init__(self, monotonic: Monotonic, within: timedelta) -> None:
        self._monotonic = monotonic
        self._at = monotonic() + within.total_seconds()

    @property
    def left(self) -> timedelta:
        """The time until it; negative once it has passed."""
        return timedelta(seconds=self._at - self._monotonic())


class ClockSettings:
    """Notices that the wall clock was set, by comparing it with the monotonic one."""

    def __init__(self, clock: Callable[[], datetime], monotonic: Monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._before = clock(), monotonic()
        self._set_at = float("-inf")
        self._times_set_back = 0

    def times_set_back(self) -> int:
        """Return how often the clock was set back so far."""
        self._compare()
        return self._times_set_back

    def steady_for(self, duration: timedelta) -> bool:
        """Return whether this process has seen no change of the clock for ``duration``."""
        self._compare()
        return self._monotonic() - self._set_at >= duration.total_seconds()

    def _compare(self) -> None:
        now, at = self._clock(), self._monotonic()
        set_by = now - self._before[0] - timedelta(seconds=at - self._before[1])
        self._before = now, at
        if abs(set_by) >= SET_BY:
            self._set_at = at
            self._times_set_back += set_by < timedelta()
