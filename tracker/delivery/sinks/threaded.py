"""Runs a function that may block outside of the event loop: a wave of items in one thread, within a bounded time.

A function that hangs cannot be stopped, so it is left running. Its thread ends with the process. No second thread
starts while it hangs. Its later results do not count.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, Generic, TypeVar

from tracker.delivery.sinks.base import DELIVERED, Outcome

T = TypeVar("T")

BUSY: Final = Outcome(delivered=False, error="it is still busy with an earlier event")


class Threaded(Generic[T]):
    """Calls ``call`` with each item.

    If it raises an error, the delivery failed, and ``said`` returns the error text.
    """

    def __init__(
        self, call: Callable[[T], None], *, name: str, within: timedelta, said: Callable[[BaseException], str]
    ) -> None:
        self._call_one = call
        self._name = name
        self._within = within
        self._said = said
        self._thread: threading.Thread | None = None
        self._one = asyncio.Lock()

    async def run(self, items: Sequence[T]) -> list[Outcome]:
        """Send the items in turn and return the outcome of each. Items beyond the time limit have failed.

        Concurrent waves run one after the other.
        """
        async with self._one:
            return await self._run(items)

    async def _run(self, items: Sequence[T]) -> list[Outcome]:
        if self._thread is not None and self._thread.is_alive():
            return [BUSY] * len(items)
        loop, ended, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        outcomes: list[Outcome] = []

        def work() -> None:
            for item in items:
                if left.is_set():
                    return
                outcomes.append(self._outcome(item))
            # If the loop is closed, no caller waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        self._thread = threading.Thread(target=work, name=f"sink {self._name}", daemon=True)
        self._thread.start()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._within.total_seconds()):
                    await ended.wait()
        finally:
            left.set()
        if ended.is_set():
            # The thread is at its last instruction. The next wave must not find it alive.
            self._thread.join()
            self._thread = None
        done = outcomes[: len(items)]
        late = Outcome(delivered=False, error=f"not finished within {self._within.total_seconds():g} s")
        return done + [late] * (len(items) - len(done))

    def _outcome(self, item: T) -> Outcome:
        try:
            self._call_one(item)
        except BaseException as error:  # noqa: BLE001 - an error of foreign code must not end the thread
            return Outcome(delivered=False, error=self._said(error))
        return DELIVERED
