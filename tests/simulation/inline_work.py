"""Database threads without threads: each piece of work runs inline on the virtual loop, after a virtual delay."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from unittest.mock import patch

from tests.simulation.virtual_loop import VirtualLoop
from tracker.errors import StoreUnavailable
from tracker.storage.store import Store

T = TypeVar("T")
# As long as Homing lets SQLite wait for a lock.
BUSY_SECONDS: Final = 5.0
LOCK_PAUSE_SECONDS: Final = 0.1
WORKERS: Final = "tracker.storage.engine.transactions.Workers"


class InlineWorkers:
    """``Workers`` for a VirtualLoop: at most ``count`` pieces of work are under way at once, in their order."""

    def __init__(self, count: int, name: str) -> None:
        self._free = count
        self._name = name
        self._queue: deque[_Work] = deque()

    def submit(self, work: Callable[[], T], *, waiting: int) -> asyncio.Future[T]:
        del waiting
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Work(work, answer))
        self._start_next()
        return answer

    def shutdown(self) -> None:
        """Run what is queued."""
        while self._queue:
            self._queue.popleft().run(may_wait=False)

    def _start_next(self) -> None:
        if self._free and self._queue:
            self._free -= 1
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.call_later(loop.thread_delay(), self._turn, loop.time())

    def _turn(self, began: float) -> None:
        loop = asyncio.get_running_loop()
        if self._queue and not self._queue[0].run(may_wait=loop.time() - began < BUSY_SECONDS):
            # SQLite waits for a lock in its thread. It looks again after a moment.
            loop.call_later(LOCK_PAUSE_SECONDS, self._turn, began)
            return
        if self._queue:
            self._queue.popleft()
        self._free += 1
        self._start_next()


@dataclass(slots=True)
class _Work:
    work: Callable[[], Any]
    answer: asyncio.Future[Any]

    def run(self, *, may_wait: bool) -> bool:
        """Run the work and give its answer; False if it met a lock, and has time to wait for it."""
        if self.answer.done():
            return True
        try:
            result = self.work()
        except StoreUnavailable as error:
            if may_wait and "locked" in error.detail:
                return False
            self._fail(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the awaiting side gets it
            self._fail(error)
        else:
            if not self.answer.done():
                self.answer.set_result(result)
        return True

    def _fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@contextmanager
def inline_work() -> Iterator[None]:
    """Let every store that is made within the block work inline."""
    with patch(WORKERS, InlineWorkers), patch("tracker.storage.engine.sqlite.perf_counter", lambda: 0.0):
        yield


def close_connections(store: Store) -> None:
    """Close the connections of a killed process: what it did not commit is gone, as after a real kill."""
    database = store._database  # noqa: SLF001 - a real kill closes the files as well
    for threads in (database._writer, database._reader):  # noqa: SLF001 - as above
        for connection in threads.open if threads is not None else ():
            with suppress(Exception):
                driver: Any = connection.connection.dbapi_connection
                driver.close()
