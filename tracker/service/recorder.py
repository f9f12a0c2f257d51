"""Group commit: concurrent pieces of work share one transaction. Each caller gets its answer after the commit.

The queue has a limit. Beyond it, new work gets Overloaded. If a batch fails because of its content, it is bisected
until the bad piece is alone. If the database is unavailable, the whole batch fails at once, and none of it is
committed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from tracker.errors import ClientError, Overloaded, ServiceError, StoreUnavailable
from tracker.model.changes import Work
from tracker.storage.store import Store

T = TypeVar("T")
Piece = tuple[Work[Any], asyncio.Future[Any]]
log = logging.getLogger("homing.recorder")

QUEUE_BOUND: Final = 4_096
BATCH_BOUND: Final = 256
# The most turns of the event loop that a batch waits for more work. The turns of an overloaded loop are slow.
TURNS: Final = 10
RETRY_AFTER: Final = timedelta(seconds=2)
# After so many failed batches in a row, the last one within ``FAILED_FOR``, requests fail even if one write works.
FAILURES: Final = 3
FAILED_FOR: Final = timedelta(seconds=30)


class Recorder:
    """One writer task for one store. ``open`` starts it. ``close`` commits the queue and stops it.

    ``committed`` is called after each batch.
    """

    def __init__(
        self,
        store: Store,
        *,
        committed: Callable[[], None] = lambda: None,
        queue_bound: int = QUEUE_BOUND,
        batch_bound: int = BATCH_BOUND,
    ) -> None:
        self._store = store
        self._committed = committed
        self._batch_bound = batch_bound
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue(queue_bound)
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        # The number of failed batches since the last success, and the reason and time of the last failure.
        self._failures = 0
        self._failure = ""
        self._failed_at = 0.0

    async def open(self) -> None:
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="homing recorder")

    async def close(self) -> None:
        """Commit the queue, then stop."""
        if self._task is None:
            return
        self._closing = True
        await self._queue.put(None)
        await self._task
        self._task = None

    async def apply(self, work: Work[T]) -> T:
        """Commit one piece in a transaction that it shares with other waiting pieces. Return its result.

        Raises the ClientError of its decision, StoreUnavailable or Overloaded. Then nothing of the piece is committed.
        A queued piece is committed even if the caller stops waiting.
        """
        if self._closing or self._task is None:
            raise StoreUnavailable("the recorder is not running", retry_after=RETRY_AFTER)
        # Do not use get_running_loop(): Python 3.11 makes a system call each time.
        answer: asyncio.Future[T] = self._task.get_loop().create_future()
        try:
            self._queue.put_nowait((work, answer))
        except asyncio.QueueFull:
            raise Overloaded(
                "too many requests wait for the database. Try again later", retry_after=RETRY_AFTER
            ) from None
        return await answer

    @property
    def trouble(self) -> str | None:
        """Why no batch can be committed. None if the latest batches succeeded, or if there was none lately."""
        if self._task is None or self._failures < FAILURES:
            return None
        silence = self._task.get_loop().time() - self._failed_at
        return self._failure if silence < FAILED_FOR.total_seconds() else None

    async def _run(self) -> None:
        room = asyncio.Semaphore(self._store.batches_at_once)
        async with asyncio.TaskGroup() as committing:
            last = False
            while not last:
                # Work that arrives during the wait joins the batch.
                await room.acquire()
                batch, last = await self._gathered()
                if batch:
                    committing.create_task(self._commit(batch)).add_done_callback(lambda _: room.release())

    async def _gathered(self) -> tuple[Sequence[Piece], bool]:
        """Return the next batch, and whether it is the last."""
        batch: list[Piece] = []
        item = await self._queue.get()
        # Work that arrives at this moment joins the batch, because a batch of one costs almost as much as a batch of
        # ten.
        seen = -1
        for _ in range(TURNS):
            if not seen < (waiting := self._queue.qsize()) < self._batch_bound:
                break
            seen = waiting
            await asyncio.sleep(0)
        while item is not None:
            batch.append(item)
            if len(batch) == self._batch_bound or self._queue.empty():
                return batch, False
            item = self._queue.get_nowait()
        return batch, True

    async def _commit(self, batch: Sequence[Piece]) -> None:
        try:
            results = await self._store.apply([work for work, _ in batch])
        except (StoreUnavailable, Overloaded) as error:
            if isinstance(error, StoreUnavailable):
                self._failures += 1
                self._failure, self._failed_at = error.detail, asyncio.get_running_loop().time()
            _answer_all(batch, type(error)(error.detail, retry_after=RETRY_AFTER))
        except Exception as error:  # noqa: BLE001 - one bad piece must not fail the other pieces or this loop
            if len(batch) == 1:
                log.error("a request cannot be recorded: %s", type(error).__name__)  # noqa: TRY400 - may hold a body
                _answer_all(
                    batch, ServiceError("the request could not be recorded. Try again later", retry_after=RETRY_AFTER)
                )
                return
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])
        else:
            self._failures = 0
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, ClientError):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
            self._committed()


def _answer_all(batch: Sequence[Piece], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
