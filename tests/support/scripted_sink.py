"""A sink in memory that does what a test tells it: a ``tracker.delivery.sinks.base.Sink`` written by hand."""

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
    """``answer`` gives each event's outcome, ``where`` its lane; ``held`` keeps what is sent until it is set.

    ``sent`` is every event of every call, ``received`` those that were taken, in their order.
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

    def endpoint(self, told: PublishedEvent) -> str | None:
        return self.name if self.where is None else self.where(told)

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        assert len({told.subject for told in events}) == len(events), "a task twice at once"
        self.waves.append(len(events))
        self.in_flight += len(events)
        self.most = max(self.most, self.in_flight)
        try:
            return await asyncio.gather(*map(self._send, events))
        finally:
            self.in_flight -= len(events)

    async def _send(self, told: PublishedEvent) -> Outcome:
        self.sent.append(told)
        held = self.held(told)
        if held is not None:
            await held.wait()
        outcome = self.answer(told)
        if outcome.delivered:
            self.received.append(told)
        return outcome

    def of(self, subject: str) -> list[int]:
        """Return the sequences of a task's events that were taken, each when it first was."""
        return list(dict.fromkeys(told.sequence for told in self.received if told.subject == subject))
