"""Databases that are slow, that are not waited for, or that may not be written for a while."""

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from random import random
from typing import Any

from sqlalchemy import Connection, Engine, event

from tracker.model.changes import Work
from tracker.storage import batch
from tracker.storage.engine.bulk import play
from tracker.storage.store import Store

READ_ONLY = signal.SIGUSR1
WRITABLE = signal.SIGUSR2


class DawdlingStore(Store):
    """Each batch takes up to so many seconds before its commit, as on a server that has other things to do."""

    def __init__(self, database_url: str, *, seconds: float) -> None:
        super().__init__(database_url)
        self._seconds = seconds

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        return await self._database.write(self._dawdle, works)

    def _dawdle(self, connection: Connection, works: Sequence[Work[Any]]) -> list[Any]:
        results = play(connection, batch.apply(connection.dialect.name, works))
        time.sleep(self._seconds * random())
        return results


def impatient(database_url: str) -> Store:
    return Store(database_url, busy=timedelta(milliseconds=50))


@contextmanager
def may_not_write() -> Iterator[None]:
    """Make the process's SQLite connections read-only on SIGUSR1, and writable again on SIGUSR2.

    An open file stays writable after a change of permissions, so SQLite itself has to refuse.
    """
    made: list[Any] = []
    barred: list[Any] = []

    def note(connection: Any, _record: object) -> None:
        made.append(connection)

    def forbid() -> None:
        barred.extend(each for each in made if each.execute("PRAGMA query_only").fetchone() == (0,))
        for each in barred:
            each.execute("PRAGMA query_only=ON")

    def allow() -> None:
        while barred:
            barred.pop().execute("PRAGMA query_only=OFF")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(READ_ONLY, forbid)
    loop.add_signal_handler(WRITABLE, allow)
    event.listen(Engine, "connect", note)
    try:
        yield
    finally:
        event.remove(Engine, "connect", note)
