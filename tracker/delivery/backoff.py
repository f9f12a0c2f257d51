"""When to try again, and when to give up. Pure: the time and the chance are passed in."""

from datetime import datetime, timedelta
from typing import Final

LEAST: Final = timedelta(seconds=1)
MOST: Final = timedelta(hours=1)
# A receiver that is down is asked more often than an event is repeated: one small request says whether it is up.
PROBE_MOST: Final = timedelta(seconds=60)
# What is put aside for a receiver that has long been down comes back by itself when that is up: it needs no watching.
ASIDE_MOST: Final = timedelta(minutes=10)
SLOW_MOST: Final = timedelta(minutes=1)
PATIENCE: Final = timedelta(days=3)
ATTEMPTS: Final = 20


def retry_in(attempts: int, *, chance: float, asked: timedelta | None = None) -> timedelta:
    """Return how long an event waits after so many attempts: up to 1 s, 2 s, 4 s … 1 h, spread over all of it.

    ``chance`` is in [0, 1). The receiver's own wish is heard, but never for longer than the most.
    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return max(_doubled(attempts, MOST) * chance, _heard(asked))


def probe_in(refusals: int, *, chance: float, asked: timedelta | None = None) -> timedelta:
    """Return how long a receiver is left alone that refused so many probes in a row: about 1 s, 2 s, 4 s … 60 s."""
    return max(_doubled(refusals, PROBE_MOST) * (0.5 + chance / 2), _heard(asked))


def aside_in(*, open_for: timedelta, slow_for: timedelta, chance: float) -> timedelta:
    """Return for how long to put aside what is for a receiver that has been down, or slow, for so long.

    Each time longer, so that the many rows of one that stays down are not touched again and again.
    """
    return max(LEAST, min(open_for, ASIDE_MOST), min(slow_for, SLOW_MOST)) * (1 + chance)


def spent(attempts: int, *, first_at: datetime, delivered_at: datetime | None, now: datetime) -> bool:
    """Return whether an event was tried for long enough.

    As long as its sink takes nothing at all, that is down, and no event is to blame.
    """
    tried = attempts >= ATTEMPTS and now - first_at >= PATIENCE
    return tried and delivered_at is not None and delivered_at > first_at


def in_vain(*, first_at: datetime, open_since: datetime | None, delivered_at: datetime | None, now: datetime) -> bool:
    """Return whether an event was pending long enough for one endpoint of many, which accepts nothing while others do.

    Few of its events are ever tried while it is down, so that attempts say nothing; and it has not only just gone.
    """
    down = open_since is not None and now - open_since >= MOST
    return down and now - first_at >= PATIENCE and delivered_at is not None and delivered_at > first_at


def _doubled(times: int, most: timedelta) -> timedelta:
    return min(LEAST * (1 << min(max(times - 1, 0), 30)), most)


def _heard(asked: timedelta | None) -> timedelta:
    return timedelta() if asked is None else min(max(asked, timedelta()), MOST)
