"""How much of a stranger's request is taken in: bytes, seconds, and unsigned deliveries per address."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from starlette.types import Receive

from receiver.errors import Disconnected
from tracker.errors import TooLarge, TooSlow

MINUTE: Final = timedelta(minutes=1)
# Enough of a declared length to compare; Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 20


async def read_body(
    receive: Receive, headers: Sequence[tuple[bytes, bytes]], *, limit: int, within: timedelta
) -> bytes:
    """Read a whole body of at most ``limit`` bytes ``within`` a time in total.

    Raises TooLarge (from the declared length where there is one, before anything is read), TooSlow, or Disconnected
    where the sender left: a part of a body is not a delivery.
    """
    declared = next((value for name, value in headers if name == b"content-length"), b"")
    if declared.isdigit() and int(declared[:_DIGITS]) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes")
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await _read(receive, limit)
    except TimeoutError:
        raise TooSlow(f"the body took longer than {within.total_seconds():g} s") from None


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected("the sender left before the end of the body")
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
        if not message.get("more_body", False):
            return bytes(body)


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
