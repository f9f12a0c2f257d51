"""``stdout:``: each event as one line of JSON, for a pipe, a log collector or a person."""

import os
import select
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from tracker.delivery.sinks.base import Outcome
from tracker.delivery.sinks.threaded import Threaded
from tracker.model.event import PublishedEvent, structured
from tracker.model.event_filter import EVERYTHING, EventFilter

WIDTH: Final = 256
WITHIN: Final = timedelta(seconds=15)
STDOUT: Final = 1


class Lines:
    """Writes to a file descriptor without a buffer. A successful write is complete, and a failed one leaves nothing."""

    width = WIDTH

    def __init__(
        self,
        *,
        name: str,
        source: str,
        takes: EventFilter = EVERYTHING,
        descriptor: int = STDOUT,
        within: timedelta = WITHIN,
    ) -> None:
        self.name = name
        self._source = source
        self._takes = takes.takes
        self._descriptor = descriptor
        # A pipe without a reader blocks the writer.
        self._threaded: Threaded[bytes] = Threaded(self._write, name=name, within=within, said=_said)

    async def open(self) -> None:
        """Do nothing, because there is nothing to prepare."""

    async def close(self) -> None:
        """Do nothing, because there is nothing to close."""

    def endpoint(self, event: PublishedEvent) -> str | None:
        return self.name if self._takes(event) else None

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        return await self._threaded.run([structured(event, self._source) + b"\n" for event in events])

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Another program that shares the descriptor may have made it non-blocking. Finish the line in any case.
                select.select([], [self._descriptor], [])


def _said(error: BaseException) -> str:
    if isinstance(error, BrokenPipeError):
        return "the standard output has no reader any more"
    return f"the standard output cannot be written: {type(error).__name__}"
