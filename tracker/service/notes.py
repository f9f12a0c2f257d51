"""Notes: what this process knows and must write down, tried again until it is committed or the process ends.

A submit's outcome, and whether its client left or was answered, are known only here until they are written. A database
that is locked, full or away for a while must not make the process forget them.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from tracker.errors import CallerError, OurError, Overloaded, StoreUnavailable
from tracker.model.changes import Work
from tracker.service.recorder import Recorder

log = logging.getLogger("homing.notes")

FIRST_PAUSE: Final = timedelta(seconds=0.1)
LONGEST_PAUSE: Final = timedelta(seconds=2)
# For a piece that fails by itself, at a database that takes others.
UNWRITABLE_PAUSE: Final = timedelta(minutes=1)


@dataclass(slots=True)
class _Note:
    work: Work[Any]
    written: Callable[[], None]
    # One attempt at a time, so that whoever drops a note knows what became of it.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unwritable: bool = False


class Notes:
    """Pieces of work by name. They live in memory; there are as many as submits were in flight when writing failed."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pending: dict[str, _Note] = {}
        self._trying: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Work[Any], *, written: Callable[[], None] = lambda: None) -> None:
        """Remember a piece from now on, and write it in the background; it replaces an earlier one of its name.

        ``written`` is called once it is committed.
        """
        if (note := self._pending.get(name)) is not None:
            note.work, note.written = work, written
            return
        self._pending[name] = _Note(work, written)
        trying = asyncio.create_task(self._retry(name))
        self._trying.add(trying)
        trying.add_done_callback(self._trying.discard)

    async def attempt(self, name: str) -> bool:
        """Try to write a piece now; return False where the database cannot take it yet."""
        note = self._pending.get(name)
        if note is None:
            return True
        async with note.lock:
            if self._pending.get(name) is not note:
                return True
            work, written = note.work, note.written
            try:
                await self._recorder.apply(work)
            except CallerError:
                # What it was about is gone.
                pass
            except OurError as error:
                note.unwritable = not isinstance(error, StoreUnavailable | Overloaded)
                return False
            # It may have been dropped or replaced while this was written.
            if note.work is work and self._pending.get(name) is note:
                del self._pending[name]
                written()
            return True

    async def drop(self, name: str) -> None:
        """Stop trying to write a piece; when this returns it is committed, or will not be."""
        note = self._pending.pop(name, None)
        if note is not None:
            async with note.lock:
                return

    async def flush(self) -> None:
        """Try everything that is pending. Raises StoreUnavailable where the database cannot take it now."""
        await asyncio.gather(*(self.attempt(name) for name in list(self._pending)))
        if any(not note.unwritable for note in self._pending.values()):
            raise StoreUnavailable("the outcomes of earlier submissions cannot be recorded. Try again later")

    async def close(self) -> None:
        """Try everything once more, and give up what cannot be written now."""
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
