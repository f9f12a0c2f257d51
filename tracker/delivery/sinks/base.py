"""The interface of a sink: a destination of events. Each sink has its own file, and must pass one shared suite.

The relay handles order, retries and progress. A sink only sends. It receives events of different tasks, at most as many
as it can take at once, and returns the outcome of each.
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
    """A destination of events. Its progress is recorded under its name."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int:
        """The number of events per call. Twice as many may be in flight: new ones and pending ones."""

    async def open(self) -> None:
        """Prepare the sink. A missing endpoint is no error yet, because it may start later."""

    async def close(self) -> None:
        """Close the sink within seconds. Events that are being sent may fail."""

    def endpoint(self, event: PublishedEvent) -> str | None:
        """Return the endpoint of an event, or None if it is not for this sink.

        A failing endpoint delays no other endpoint. All events of a task have the same endpoint. A sink with a single
        endpoint returns its own name. While that endpoint is down, the events stay after the cursor, without a row for
        each.
        """

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        """Send events of different tasks, and return the outcomes in the same order, within a bounded time.

        The relay may call it again in parallel, with other tasks. If the call is canceled or raises an error, all of
        its events are sent again.
        """
