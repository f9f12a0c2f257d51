"""Read the body of a request within a size limit and a time limit. The sender cannot change them."""

import asyncio
from datetime import timedelta

from starlette.requests import ClientDisconnect, Request

from tracker.api.http.capacity import RequestResources
from tracker.errors import InvalidRequest, TooLarge, TooSlow, WrongMediaType
from tracker.model.content_encoding import decode, is_encoded
from tracker.model.event import JSON_TYPE


class Truncated(InvalidRequest):
    """The connection ended before the body. The answer only goes to the log."""

    title = "Truncated"


async def read_body(request: Request, resources: RequestResources, *, limit: int, within: timedelta) -> bytes:
    """Return the whole body of at most ``limit`` bytes, decoded if it is compressed.

    It must arrive ``within`` that time. Bytes that arrived are counted in ``resources``. After TooSlow, the answer
    should have ``Connection: close``, because the rest of the body may still arrive.

    Raises: TooLarge (at once if the announced length is too large), TooSlow, Truncated, WrongMediaType if the body
        cannot be decoded, Overloaded if the bodies of other requests fill the memory.
    """
    announced = request.headers.get("content-length", "")
    # The sender chooses the digits. int() refuses thousands of them, and isdigit() accepts more than ASCII.
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
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
                    resources.take_bytes(len(chunk))
                    chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {within.total_seconds():g} s") from None
    except ClientDisconnect:
        raise Truncated("the connection ended before the body") from None
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "")
    if not is_encoded(encoding):
        return body
    plain = await asyncio.to_thread(decode, body, encoding, limit=limit)
    resources.take_bytes(len(plain))
    return plain


def require_json(request: Request) -> None:
    """Raise WrongMediaType unless the body is declared as JSON. A form on a web page cannot declare that."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON_TYPE:
        raise WrongMediaType(f"the body is not declared as JSON. Send Content-Type: {JSON_TYPE}")
