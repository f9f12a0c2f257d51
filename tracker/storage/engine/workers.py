"""Threads for transactions. Whatever happens in one, its answer reaches who waits for it, and the thread goes on.

A thread of the standard library's executor that runs out of memory between two pieces of work ends, and nobody ever
answers for what is queued behind it: the process could not even be stopped.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from tracker.errors import StoreUnavailable

T = TypeVar("T")
# How long a thread waits for memory before it tries again to give its answer.
PAUSE_SECONDS: Final = 0.05


class Workers:
    """At most ``count`` threads, started as they are needed; each runs one piece of work at a time."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], T], *, waiting: int) -> asyncio.Future[T]:
        """Queue work behind what is ``waiting`` already; what is cancelled before its turn is not begun.

        Raises StoreUnavailable where the system gives no thread.
        """
        if len(self._threads) < min(self._count, waiting + 1):
            self._start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Piece(work, loop, answer))
        return answer

    def shutdown(self) -> None:
        """Let everything that was queued end; blocks until then. May be called again."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _start(self) -> None:
        # A daemon: what hangs in the system must not keep a process that is being stopped.
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            if not self._threads:
                raise StoreUnavailable("the system gives no thread for the database: it is out of memory") from None
            return
        self._threads.append(thread)

    def _work(self) -> None:
        while (piece := self._taken()) is not None:
            piece.run()
            del piece

    def _taken(self) -> "_Piece | None":
        while True:
            try:
                return self._queue.get()
            except MemoryError:
                time.sleep(PAUSE_SECONDS)


class _Piece:
    """One piece of work, and who waits for it on which loop."""

    __slots__ = ("_answer", "_loop", "_work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any]) -> None:
        self._work = work
        self._loop = loop
        self._answer = answer

    def run(self) -> None:
        if self._answer.cancelled():
            return
        result, failure = None, None
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            failure = error
        while True:
            try:
                self._loop.call_soon_threadsafe(self._settle, result, failure)
            except MemoryError:
                time.sleep(PAUSE_SECONDS)
            except RuntimeError:
                return  # the loop is closed, so nobody waits
            else:
                return

    def _settle(self, result: object, failure: BaseException | None) -> None:
        if self._answer.done():
            return
        if failure is None:
            self._answer.set_result(result)
        else:
            self._answer.set_exception(failure)
