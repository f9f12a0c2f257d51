"""The answers to callbacks: one table from what happened to an HTTP answer, which says nothing of the task.

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
    """Send an answer whole. The messages are made anew each time: what wraps us may write into those it passes on."""
    headers = response.raw_headers.copy()
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except OSError:
        return  # the sender left; what was to be recorded is


def refusal(error: HomingError, *, http_version: str = "1.1") -> Response:
    """Answer what went wrong: a mistake of the sender by its own status, all else 503 with a time to retry."""
    headers: dict[str, str] = {}
    if isinstance(error, NotAllowed):
        headers["allow"] = METHOD
    # The rest of the body is not read, so the connection cannot be used again (HTTP/2 has no such header).
    if isinstance(error, TooLarge | TooSlow) and http_version.startswith("1"):
        headers["connection"] = "close"
    ours = not isinstance(error, CallerError)
    wait = error.retry_after or (RETRY_AFTER if ours else None)
    if wait is not None:
        headers["retry-after"] = str(max(1, ceil(wait.total_seconds())))
    if ours:
        return JSONResponse({"status": "unavailable"}, OurError.status, headers)
    return JSONResponse({"status": "refused", "reason": error.title}, error.status, headers)
