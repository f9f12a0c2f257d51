"""What a sink is: somewhere that events go. One file each, and one shared suite that every one must pass.

The relay owns order, repetition and memory; a sink only sends. It is handed events of different tasks, as many as it
can take at once, and says of each what became of it.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol

import msgspec

from tracker.model.event import PublishedEvent


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one attempt. If it is not ``delivered``, ``error`` says why in one line without secrets.

    The relay retries it, after ``retry_after`` if the endpoint sent that. It does not retry a ``hopeless`` event, which
    can never succeed. ``gone``: the endpoint wants no more events.
    """

    delivered: bool
    error: str = ""
    retry_after: timedelta | None = None
    hopeless: bool = False
    gone: bool = False


DELIVERED: Final = Outcome(delivered=True)


class Sink(Protocol):
    """Somewhere that events go, under a name that its progress is kept by."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int:
        """How many events it takes at once. Twice as many may be in flight: new ones beside pending ones."""

    async def open(self) -> None:
        """Get ready. Whatever the receiver lacks is no error yet: it may come up later."""

    async def close(self) -> None:
        """Let go, within seconds; what is being sent may fail."""

    def endpoint(self, event: PublishedEvent) -> str | None:
        """Return the endpoint of an event, None if it is not for this sink. A failing endpoint delays no other.

        All events of a task go the same way. A sink with one receiver gives its own name: while that is down, what
        happens waits where it is, and not in a row for each event.
        """

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        """Send events of different tasks and return the outcome of each, in their order, within a bounded time.

        It may be called again meanwhile, with other tasks. Where it is cancelled or raises, all are sent again.
        """
