"""The durations and sizes of the relay."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTiming:
    """The relay's durations and sizes.

    - ``lease``: the length of a lease. ``renew``: how often the holder renews it.
    - ``acquire``: how often other processes try to acquire it.
    - ``page``: how many events are read at once.
    - ``settle``: the least time between two records of success.
    - ``gather``: the least time between the starts of two pages that are not full.
    - ``send``: the limit of one call of a sink. ``grace``: how long a page waits for slow endpoints.
    - ``finish``: how long a stop waits for events in flight. ``idle``: how often to read events without a notice.
    - ``hurry``: for an endpoint that works again, the least time between two steps that make its deliveries due.
    """

    lease: timedelta = timedelta(seconds=10)
    renew: timedelta = timedelta(seconds=3)
    acquire: timedelta = timedelta(seconds=1)
    page: int = 500
    settle: timedelta = timedelta(milliseconds=50)
    gather: timedelta = timedelta(milliseconds=20)
    send: timedelta = timedelta(seconds=60)
    grace: timedelta = timedelta(seconds=1)
    finish: timedelta = timedelta(seconds=5)
    idle: timedelta = timedelta(seconds=1)
    hurry: timedelta = timedelta(minutes=1)


RELAY_TIMING: Final = RelayTiming()
