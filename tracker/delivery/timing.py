"""How the relay works: how much at once, how often, and for how long."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The relay's numbers.

    ``lease``: how long a silent process keeps a sink; ``renew``: how often it says that it lives; ``look``: how often
    the others ask. ``page``: how many events are taken at once. ``settle``: how often, at most, is written down what
    goes well; ``gather``: how long from the beginning of a page that was not full until the next. ``send``: the hard
    limit of one call of a sink, ``grace``: how long a page waits for slow lanes, ``finish``: how long the end waits for
    what is being sent. ``idle``: how often to look for what nobody tells us of. ``hurry``: how often, at most, a
    receiver that is up again makes due what waits.
    """

    lease: timedelta = timedelta(seconds=10)
    renew: timedelta = timedelta(seconds=3)
    look: timedelta = timedelta(seconds=1)
    page: int = 500
    settle: timedelta = timedelta(milliseconds=50)
    gather: timedelta = timedelta(milliseconds=20)
    send: timedelta = timedelta(seconds=60)
    grace: timedelta = timedelta(seconds=1)
    finish: timedelta = timedelta(seconds=5)
    idle: timedelta = timedelta(seconds=1)
    hurry: timedelta = timedelta(minutes=1)


PACE: Final = Pace()
