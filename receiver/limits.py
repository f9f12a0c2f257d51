"""How much of a stranger's request is taken in: bytes, seconds, and unsigned deliveries per address."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from types import TracebackType
from typing import Any, Final

from starlette.types import Receive

from receiver.errors import Disconnected
from tracker.errors import TooLarge, TooSlow

MINUTE: Final = timedelta(minutes=1)
# Enough of a declared length to compare; Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 20


class Late(Exception):
    """A wait that took too long."""


class Deadline:
    """One time limit for many short waits at once, watched by one timer.

    ``with deadline: ...`` raises Late where the wait takes longer than ``limit``, up to a quarter later. A
    timer for each wait would cost more than most of what a delivery needs.
    """

    def __init__(self, limit: timedelta) -> None:
        self._seconds = limit.total_seconds()
        self._waits: dict[asyncio.Task[Any], float] = {}
        self._over: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._waits[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / 4, self._look, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._waits.pop(task, None)
        if task in self._over:
            self._over.discard(task)
            # Whoever else cancelled it meanwhile is not to be answered, but obeyed.
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise Late from None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        # They began in this order, and each has the same time.
        for task in [task for task, end in takewhile(lambda wait: wait[1] <= now, self._waits.items())]:
            del self._waits[task]
            self._over.add(task)
            task.cancel()
        self._timer = loop.call_later(self._seconds / 4, self._look, loop) if self._waits else None


async def read_body(
    receive: Receive, headers: Sequence[tuple[bytes, bytes]], *, limit: int, deadline: Deadline
) -> bytes:
    """Read a whole body of at most ``limit`` bytes before its ``deadline``.

    Raises TooLarge (from the declared length where there is one, before anything is read), TooSlow, or Disconnected
    where the sender left: a part of a body is not a delivery.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value[:_DIGITS]) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
    try:
        with deadline:
            return await _read(receive, limit)
    except Late:
        raise TooSlow("the body took too long") from None


async def _read(receive: Receive, limit: int) -> bytes:
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected("the sender left before the end of the body")
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        # Most come in one piece; the others are put together without copying what is there again and again.
        body = piece if not body and not more else _joined(body, piece)
        if len(body) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
        if not more:
            return bytes(body)


def _joined(body: bytes | bytearray, piece: bytes) -> bytearray:
    joined = body if isinstance(body, bytearray) else bytearray(body)
    joined += piece
    return joined


@dataclass(slots=True)
class _Bucket:
    left: float
    at: datetime


class UnsignedBound:
    """Token buckets that bound how many unsigned deliveries per minute are kept for one address.

    Only addresses with a good token come here, so a stranger cannot push others out of the ``most`` that are counted;
    the one that was idle longest is forgotten first, which can only be generous.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str, *, per_minute: int, now: datetime) -> timedelta | None:
        """Count one delivery: None where it may be kept, else how long to wait for the next free place."""
        bucket = self._buckets.setdefault(address, _Bucket(left=per_minute, at=now))
        self._buckets.move_to_end(address)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        # A clock that is set back gives nothing and takes nothing.
        elapsed = max(now - bucket.at, timedelta(0))
        bucket.left = min(float(per_minute), bucket.left + elapsed / MINUTE * per_minute)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / per_minute * MINUTE
        bucket.left -= 1
        return None

    def __len__(self) -> int:
        return len(self._buckets)
