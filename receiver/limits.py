"""Limits for requests: body size, time, and the number of unsigned callbacks per URL."""

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
from tracker.model.shared_capacity import SharedCapacity

MINUTE: Final = timedelta(minutes=1)
# The capacity counts only the bytes of a body beyond this. The limit on connections bounds the rest.
UNCOUNTED_BYTES: Final = 64 * 1024
LARGE_BODIES: Final = "too many large bodies are arriving at once"
# Compare only so many digits of a declared length. Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 20


class Late(Exception):
    """A wait exceeded its time limit."""


class Deadline:
    """One time limit for many short waits at once, watched by one timer.

    ``with deadline: ...`` raises Late if the wait exceeds ``limit``. It raises at most a quarter of ``limit`` too late.
    One timer per wait would be too expensive for a callback.
    """

    def __init__(self, limit: timedelta) -> None:
        self._quarter = limit.total_seconds() / 4
        self._quarters = 0
        # The quarter in which each wait began. Expired waits are removed.
        self._waits: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> None:
        # Passing the loop is cheap. Before Python 3.12, finding the running loop is a system call.
        task = asyncio.current_task(self._loop)
        if task is None or self._timer is None:
            task = self._start()
        self._waits[task] = self._quarters

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        task = asyncio.current_task(self._loop)
        if task is None or self._waits.pop(task, None) is not None:
            return
        # This deadline canceled the task. If something else canceled it too, let that cancellation pass.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise Late from None

    @property
    def waiting(self) -> int:
        """The number of current waits."""
        return len(self._waits)

    def _start(self) -> asyncio.Task[Any]:
        """Start the timer for the first wait, or for the first wait on another loop."""
        task = asyncio.current_task()
        assert task is not None
        self._loop = task.get_loop()
        self._waits.clear()
        self._timer = self._loop.call_later(self._quarter, self._tick, self._loop)
        return task

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quarters += 1
        # A wait can begin in the middle of a quarter, so it expires at the fifth tick. The waits are in order of start.
        for task in [task for task, _ in takewhile(lambda wait: wait[1] <= self._quarters - 5, self._waits.items())]:
            del self._waits[task]
            task.cancel()
        self._timer = loop.call_later(self._quarter, self._tick, loop) if self._waits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyBounds:
    """The limits of a body: ``limit`` bytes, the time of ``deadline``, and the shared capacity for large bodies."""

    limit: int
    deadline: Deadline
    capacity: SharedCapacity


async def read_body(receive: Receive, headers: Sequence[tuple[bytes, bytes]], bounds: BodyBounds, url: object) -> bytes:
    """Read a whole body within its bounds.

    Raises TooLarge (before reading, if the declared length is too large) or TooSlow.
    Raises Overloaded if too many large bodies are arriving, and Disconnected if the sender left before the end.
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
                # Most bodies arrive in one piece. The others grow in place, without repeated copies.
                body = _joined(body, piece) if body or more else piece
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
                if more and len(body) > held + UNCOUNTED_BYTES:
                    bounds.capacity.take(str(url), len(body) - held)
                    held = len(body)
    except Late:
        raise TooSlow("the body took too long") from None
    finally:
        if held:
            bounds.capacity.give(str(url), held)
    return bytes(body)


def _joined(body: bytes | bytearray, piece: bytes) -> bytearray:
    joined = body if isinstance(body, bytearray) else bytearray(body)
    joined += piece
    return joined


class _Bucket(msgspec.Struct):
    left: float
    at: datetime


class UnsignedBound:
    """Token buckets that limit how many unsigned callbacks per minute Homing keeps for one URL.

    Only URLs with a valid token get a bucket, so a sender without a token cannot evict one. At most ``most`` buckets
    exist. The bucket that was idle longest is dropped first, and a dropped bucket starts full again.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, url: Hashable, *, per_minute: int, now: datetime) -> timedelta | None:
        """Count one callback. Return None if Homing may keep it, else the time until the next one is allowed."""
        bucket = self._buckets.setdefault(url, _Bucket(left=per_minute, at=now))
        self._buckets.move_to_end(url)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        # If the clock was set back, the bucket does not change.
        elapsed = max(now - bucket.at, timedelta(0))
        bucket.left = min(float(per_minute), bucket.left + elapsed / MINUTE * per_minute)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / per_minute * MINUTE
        bucket.left -= 1
        return None

    def __len__(self) -> int:
        return len(self._buckets)
