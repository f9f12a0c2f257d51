"""The times to retry a delivery or to dead-letter it. Pure: the time and the chance are arguments."""

from datetime import datetime, timedelta
from typing import Final

LEAST: Final = timedelta(seconds=1)
MOST: Final = timedelta(hours=1)
# The longest time between two probes of an endpoint that is down. It is short, because a probe is one small request.
PROBE_MOST: Final = timedelta(seconds=60)
# The longest postponement of deliveries to an endpoint that is down. They become due at once when it works again.
ASIDE_MOST: Final = timedelta(minutes=10)
SLOW_MOST: Final = timedelta(minutes=1)
PATIENCE: Final = timedelta(days=3)
ATTEMPTS: Final = 20


def retry_in(attempts: int, *, chance: float, retry_after: timedelta | None = None) -> timedelta:
    """Return the delay after so many attempts: random, at most 1 s, 2 s, 4 s … 1 h.

    ``chance`` is in [0, 1). The delay is at least the endpoint's Retry-After, which counts for at most 1 h.
    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return max(_doubled(attempts, MOST) * chance, _bounded(retry_after))


def probe_in(refusals: int, *, chance: float, retry_after: timedelta | None = None) -> timedelta:
    """Return the delay after so many failed probes in a row: about 1 s, 2 s, 4 s … 60 s."""
    return max(_doubled(refusals, PROBE_MOST) * (0.5 + chance / 2), _bounded(retry_after))


def aside_in(*, open_for: timedelta, slow_for: timedelta, chance: float) -> timedelta:
    """Return how long to postpone the deliveries to an endpoint that has been down or slow for so long.

    The delay grows, so that the relay does not update the rows of a broken endpoint too often.
    """
    return max(LEAST, min(open_for, ASIDE_MOST), min(slow_for, SLOW_MOST)) * (1 + chance)


def spent(attempts: int, *, first_at: datetime, delivered_at: datetime | None, now: datetime) -> bool:
    """Return whether to dead-letter an event after its attempts.

    If the sink accepts no event at all, the sink is down, so the event stays pending.
    """
    tried = attempts >= ATTEMPTS and now - first_at >= PATIENCE
    return tried and delivered_at is not None and delivered_at > first_at


def in_vain(*, first_at: datetime, open_since: datetime | None, delivered_at: datetime | None, now: datetime) -> bool:
    """Return whether to dead-letter an event of one endpoint that accepts nothing while others do.

    The relay tries few events of an endpoint that is down, so the number of attempts does not matter. The endpoint
    must be down for an hour at least.
    """
    down = open_since is not None and now - open_since >= MOST
    return down and now - first_at >= PATIENCE and delivered_at is not None and delivered_at > first_at


def _doubled(times: int, most: timedelta) -> timedelta:
    return min(LEAST * (1 << min(max(times - 1, 0), 30)), most)


def _bounded(retry_after: timedelta | None) -> timedelta:
    return timedelta() if retry_after is None else min(max(retry_after, timedelta()), MOST)
