"""The time that all replicas share: this machine's clock, corrected by the measured difference to the database's.

Durations and pauses are measured with the monotonic clock, in seconds as a float. Nothing can set that clock.

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
# A smaller difference is a slow reading, or a clock that is slowly adjusted. A larger one means that a clock was set.
SET_BY: Final = timedelta(seconds=2)
Monotonic = Callable[[], float]
# Returns the given number of unpredictable random bytes.
RandomBytes = Callable[[int], bytes]


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A reading of the database clock (``at``), between two times of this machine."""

    before: datetime
    at: datetime
    after: datetime

    @property
    def ahead(self) -> timedelta:
        """How far the database clock is ahead of this machine's, within ``error``."""
        return self.at - self.before - self.error

    @property
    def error(self) -> timedelta:
        return (self.after - self.before) / 2


def offset(readings: Sequence[Reading]) -> timedelta:
    """Return how far the database clock is ahead, from the most exact reading that agrees with the latest one.

    A reading that contradicts the latest one is older than a change of one of the clocks, and is ignored.
    """
    latest = readings[-1]

    def agrees(one: Reading) -> bool:
        return abs(one.ahead - latest.ahead) <= one.error + latest.error

    return min(takewhile(agrees, reversed(readings)), key=lambda one: one.error).ahead


class SteeredClock:
    """The clock of this machine (``own``), corrected by readings of a database clock once there are any."""

    def __init__(self, own: Callable[[], datetime] = utc_now) -> None:
        self.own = own
        self.ahead = timedelta()
        self._readings: deque[Reading] = deque(maxlen=READINGS)

    def __call__(self) -> datetime:
        return self.own() + self.ahead

    def steer(self, reading: Reading) -> None:
        """Follow the database clock from now on. Ignore a reading during which this machine's clock was set back."""
        if reading.after >= reading.before:
            self._readings.append(reading)
            self.ahead = offset(self._readings)


class Deadline:
    """A moment ``within`` from now on the monotonic clock. A change of the wall clock does not move it."""

    def __init__(self, monotonic: Monotonic, within: timedelta) -> None:
        self._monotonic = monotonic
        self._at = monotonic() + within.total_seconds()

    @property
    def left(self) -> timedelta:
        """The time until the moment. It is negative afterwards."""
        return timedelta(seconds=self._at - self._monotonic())


class ClockSettings:
    """Detects changes of the wall clock by comparing it with the monotonic clock."""

    def __init__(self, clock: Callable[[], datetime], monotonic: Monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._before = clock(), monotonic()
        self._set_at = float("-inf")
        self._times_set_back = 0

    def times_set_back(self) -> int:
        """Return how many times the clock was set back so far."""
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
