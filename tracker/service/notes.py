"""Notes: facts that this process must still record. It retries each until it is committed or the process ends.

Only this process knows the outcome of a submission until it is recorded, and whether the client left or got its answer.
It must not forget them while the database is locked, full or unreachable.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from tracker.errors import ClientError, Overloaded, ServiceError, StoreUnavailable
from tracker.model.changes import Work
from tracker.service.recorder import Recorder

log = logging.getLogger("homing.notes")

FIRST_PAUSE: Final = timedelta(seconds=0.1)
LONGEST_PAUSE: Final = timedelta(seconds=2)
# The pause for a piece that fails on its own while the database accepts others.
UNWRITABLE_PAUSE: Final = timedelta(minutes=1)


@dataclass(slots=True)
class _Note:
    work: Work[Any]
    written: Callable[[], None]
    # One attempt at a time, so that ``drop`` knows the result.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unwritable: bool = False


class Notes:
    """Pieces of work by name, in memory. There is one for each submission in progress when a write failed."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pending: dict[str, _Note] = {}
        self._trying: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Work[Any], *, written: Callable[[], None] = lambda: None) -> None:
        """Keep a piece of work, and record it in the background. It replaces an earlier piece with the same name.

        ``written`` is called after the commit.
        """
        if (note := self._pending.get(name)) is not None:
            note.work, note.written = work, written
            return
        self._pending[name] = _Note(work, written)
        trying = asyncio.create_task(self._retry(name))
        self._trying.add(trying)
        trying.add_done_callback(self._trying.discard)

    async def attempt(self, name: str) -> bool:
        """Try to record a piece now. Return False if the database cannot accept it yet."""
        note = self._pending.get(name)
        if note is None:
            return True
        async with note.lock:
            if self._pending.get(name) is not note:
                return True
            work, written = note.work, note.written
            try:
                await self._recorder.apply(work)
            except ClientError:
                # The row that the note is about no longer exists.
                pass
            except ServiceError as error:
                note.unwritable = not isinstance(error, StoreUnavailable | Overloaded)
                return False
            # The note may have been dropped or replaced during the write.
            if note.work is work and self._pending.get(name) is note:
                del self._pending[name]
                written()
            return True

    async def drop(self, name: str) -> None:
        """Stop trying to record a piece. When this returns, the piece is committed or never will be."""
        note = self._pending.pop(name, None)
        if note is not None:
            async with note.lock:
                return

    async def flush(self) -> None:
        """Try to record every pending piece. Raises StoreUnavailable if the database cannot accept them now."""
        await asyncio.gather(*(self.attempt(name) for name in list(self._pending)))
        if any(not note.unwritable for note in self._pending.values()):
            raise StoreUnavailable("the outcomes of earlier submissions cannot be recorded. Try again later")

    async def close(self) -> None:
        """Try each piece once more, and drop a piece that cannot be recorded now."""
        await asyncio.gather(*(self.attempt(name) for name in list(self._pending)))
        if self._pending:
            log.warning("the process ends with %d unrecorded notes about submissions", len(self._pending))
        self._pending.clear()
        for trying in list(self._trying):
            trying.cancel()
        if self._trying:
            await asyncio.wait(self._trying)

    async def _retry(self, name: str) -> None:
        pause = FIRST_PAUSE
        while not await self.attempt(name):
            await asyncio.sleep(pause.total_seconds())
            note = self._pending.get(name)
            pause = min(pause * 2, UNWRITABLE_PAUSE if note is not None and note.unwritable else LONGEST_PAUSE)
