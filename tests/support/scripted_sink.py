"""An in-memory sink that a test controls. It implements ``tracker.delivery.sinks.base.Sink``."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.model.event import PublishedEvent

NO = Outcome(delivered=False, error="refused")


def taken(_: PublishedEvent) -> Outcome:
    return DELIVERED


def refused(_: PublishedEvent) -> Outcome:
    return NO


@dataclass(slots=True, kw_only=True)
class ScriptedSink:
    """A sink with a script: ``answer`` returns the outcome of an event, ``where`` its endpoint.

    ``held`` returns an ``asyncio.Event`` that the send waits for, or None. ``sent`` has every event of every call.
    ``received`` has the delivered events in their order.
    """

    name: str = "shop"
    width: int = 10
    answer: Callable[[PublishedEvent], Outcome] = taken
    where: Callable[[PublishedEvent], str | None] | None = None
    held: Callable[[PublishedEvent], asyncio.Event | None] = lambda _: None
    broken: Exception | None = None
    sent: list[PublishedEvent] = field(default_factory=list)
    received: list[PublishedEvent] = field(default_factory=list)
    waves: list[int] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    in_flight: int = 0
    most: int = 0

    async def open(self) -> None:
        self.opened += 1
        if self.broken is not None:
            raise self.broken

    async def close(self) -> None:
        self.closed += 1

    def endpoint(self, event: PublishedEvent) -> str | None:
        return self.name if self.where is None else self.where(event)

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        assert len({event.subject for event in events}) == len(events), "a task twice at once"
        self.waves.append(len(events))
        self.in_flight += len(events)
        self.most = max(self.most, self.in_flight)
        try:
            return await asyncio.gather(*map(self._send, events))
        finally:
            self.in_flight -= len(events)

    async def _send(self, event: PublishedEvent) -> Outcome:
        self.sent.append(event)
        held = self.held(event)
        if held is not None:
            await held.wait()
        outcome = self.answer(event)
        if outcome.delivered:
            self.received.append(event)
        return outcome

    def of(self, subject: str) -> list[int]:
        """Return the sequences of the delivered events of a task, in the order of their first delivery."""
        return list(dict.fromkeys(event.sequence for event in self.received if event.subject == subject))
