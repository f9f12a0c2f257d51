"""How much of a sender's request is taken in: bytes, seconds, and unsigned callbacks per URL."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from types import TracebackType
from typing import Any, Final

import msgspec
from starlette.types import Receive

from receiver.errors import Disconnected
from tracker.errors import TooLarge, TooSlow
from tracker.model.rooms import Room

MINUTE: Final = timedelta(minutes=1)
# Of a body that is still arriving, so much is counted by the number of connections alone. Most bodies are smaller.
UNCOUNTED_BYTES: Final = 64 * 1024
LARGE_BODIES: Final = "too many large bodies are arriving at once"
# Enough of a declared length to compare; Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 20


class Late(Exception):
    """A wait that took too long."""


class Deadline:
    """One time limit for many short waits at once, watched by one timer.

    ``with deadline: ...`` raises Late where the wait takes longer than ``limit``, up to a quarter later. A
    timer for each wait would cost more than most of what a callback needs.
    """

    def __init__(self, limit: timedelta) -> None:
        self._quarter = limit.total_seconds() / 4
        self._quarters = 0
        # In which quarter each wait began; those whose time was up are gone.
        self._waits: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> None:
        # Naming the loop is cheap; to ask which one runs is a system call before Python 3.12.
        task = asyncio.current_task(self._loop)
        if task is None or self._timer is None:
            task = self._start()
        self._waits[task] = self._quarters

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        task = asyncio.current_task(self._loop)
        if task is None or self._waits.pop(task, None) is not None:
            return
        # Its time was up. Whoever else cancelled it meanwhile is not to be answered, but obeyed.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise Late from None

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waits)

    def _start(self) -> asyncio.Task[Any]:
        """Begin to watch, for the first wait or for the first one on another loop."""
        task = asyncio.current_task()
        assert task is not None
        self._loop = task.get_loop()
        self._waits.clear()
        self._timer = self._loop.call_later(self._quarter, self._look, self._loop)
        return task

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quarters += 1
        # The first quarter of a wait may have been short, so it is the fifth that ends it. They began in this order.
        for task in [task for task, _ in takewhile(lambda wait: wait[1] <= self._quarters - 5, self._waits.items())]:
            del self._waits[task]
            task.cancel()
        self._timer = loop.call_later(self._quarter, self._look, loop) if self._waits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyBounds:
    """What a body may take: ``limit`` bytes, the time of ``deadline``, and room for what is larger than most are."""

    limit: int
    deadline: Deadline
    room: Room


async def read_body(
    receive: Receive, headers: Sequence[tuple[bytes, bytes]], bounds: BodyBounds, address: object
) -> bytes:
    """Read a whole body within its bounds.

    Raises TooLarge (from the declared length where there is one, before anything is read), TooSlow, Overloaded where
    too many large bodies are arriving, or Disconnected where the sender left: a part of a body is not a callback.
    """
    limit = bounds.limit
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value[:_DIGITS]) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
    body: bytes | bytearray = b""
    more = True
    held = 0
    try:
        with bounds.deadline:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected("the sender left before the end of the body")
                piece = message.get("body", b"")
                more = message.get("more_body", False)
                # Most come in one piece; the others are put together without copying what is there again and again.
                body = _joined(body, piece) if body or more else piece
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
                if more and len(body) > held + UNCOUNTED_BYTES:
                    bounds.room.take(str(address), len(body) - held)
                    held = len(body)
    except Late:
        raise TooSlow("the body took too long") from None
    finally:
        if held:
            bounds.room.give(str(address), held)
    return bytes(body)


def _joined(body: bytes | bytearray, piece: bytes) -> bytearray:
    joined = body if isinstance(body, bytearray) else bytearray(body)
    joined += piece
    return joined


class _Bucket(msgspec.Struct):
    left: float
    at: datetime


class UnsignedBound:
    """Token buckets that bound how many unsigned callbacks per minute are kept for one address.

    Only URLs with a good token come here, so nobody else can push others out of the ``most`` that are counted;
    the one that was idle longest is forgotten first, which can only be generous.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, address: Hashable, *, per_minute: int, now: datetime) -> timedelta | None:
        """Count one callback: None where it may be kept, else how long to wait for the next free place."""
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
