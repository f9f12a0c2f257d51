"""The HTTP answers to callbacks. They reveal nothing about the task.

docs/reference/callback-answers.md says, for each, why the provider should retry or stop.
"""

from datetime import timedelta
from math import ceil
from typing import Final

from starlette.responses import JSONResponse, Response
from starlette.types import Send

from tracker.errors import CallerError, HomingError, NotAllowed, OurError, TooLarge, TooSlow

METHOD: Final = "POST"
RETRY_AFTER: Final = timedelta(seconds=5)


# The answer to a callback that is committed.
RECORDED: Final[Response] = JSONResponse({"status": "recorded"})


async def send_answer(response: Response, send: Send) -> None:
    """Send an answer. Each call makes new messages, because a middleware may change the messages that it passes on."""
    headers = response.raw_headers.copy()
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except OSError:
        return  # the sender disconnected; the callback is already recorded


def refusal(error: HomingError, *, http_version: str = "1.1") -> Response:
    """Return the answer to an error: the status of a sender's mistake, or else 503 with Retry-After."""
    headers: dict[str, str] = {}
    if isinstance(error, NotAllowed):
        headers["allow"] = METHOD
    # The receiver does not read the rest of the body, so the connection cannot be reused. HTTP/2 has no such header.
    if isinstance(error, TooLarge | TooSlow) and http_version.startswith("1"):
        headers["connection"] = "close"
    ours = not isinstance(error, CallerError)
    wait = error.retry_after or (RETRY_AFTER if ours else None)
    if wait is not None:
        headers["retry-after"] = str(max(1, ceil(wait.total_seconds())))
    if ours:
        return JSONResponse({"status": "unavailable"}, OurError.status, headers)
    return JSONResponse({"status": "refused", "reason": error.title}, error.status, headers)
