"""Reading a request's body within a size and a time.

Every body that Homing reads passes here: the number of bytes and the seconds are ours to choose, never the sender's.
"""

import asyncio
from datetime import timedelta
from typing import Final

from starlette.requests import ClientDisconnect, Request

from tracker.api.http.capacity import Held
from tracker.errors import InvalidRequest, TooLarge, TooSlow, WrongMediaType
from tracker.model.content_encoding import decode, is_encoded

JSON: Final = "application/json"


class Truncated(InvalidRequest):
    """The connection ended before the body did; the answer is for the log, nobody is left to read it."""

    title = "Truncated"


async def read_body(request: Request, held: Held, *, limit: int, within: timedelta) -> bytes:
    """Read the whole body: at most ``limit`` bytes within ``within`` in all, however slowly they drip.

    What has arrived is counted in ``held``; what is only announced costs nobody anything. A compressed body is decoded.

    Raises TooLarge (at once where the announced length says so), TooSlow, Truncated, WrongMediaType where it cannot be
    decoded, or Overloaded where too much of other bodies is in memory. After TooSlow the answer should carry
    ``Connection: close``, since the rest may still be dripping.
    """
    if _announced(request) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within.total_seconds()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes")
                if chunk:
                    held.take_bytes(len(chunk))
                    chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {within.total_seconds():g} s") from None
    except ClientDisconnect:
        raise Truncated("the connection ended before the body did") from None
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "")
    if not is_encoded(encoding):
        return body
    plain = await asyncio.to_thread(decode, body, encoding, limit=limit)
    held.take_bytes(len(plain))
    return plain


def require_json(request: Request) -> None:
    """Raise WrongMediaType unless the body says that it is JSON: a web page's simple form cannot say so."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise WrongMediaType(f"the body must be sent as Content-Type: {JSON}")


def _announced(request: Request) -> int:
    text = request.headers.get("content-length", "")
    # The digits are the sender's: int() itself refuses thousands of them, and isdigit() knows more than ASCII.
    return int(text[:20]) if text.isascii() and text.isdigit() else 0
