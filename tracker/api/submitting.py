"""What all ways to submit a task over HTTP share: the idempotency key, and a client that disconnects while it waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request

from tracker.api.http.disconnect import disconnected
from tracker.api.http.endpoint import ApiRequest, Header
from tracker.errors import InvalidRequest
from tracker.model.task import Created, Task
from tracker.model.untrusted import ID_LENGTH, identifier

IDEMPOTENCY_KEY: Final = Header("Idempotency-Key", ID_LENGTH)
SubmittedT = TypeVar("SubmittedT", bound=Task | Created)


def idempotency_key(request: Request) -> str | None:
    """Return the client's idempotency key, or None without the header. Raises InvalidRequest."""
    given = request.headers.getlist(IDEMPOTENCY_KEY.name)
    if not given:
        return None
    key = identifier(given[0]) if len(given) == 1 else None
    if key is None:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY.name} must be given once, as 1 to {ID_LENGTH} printable characters")
    return key


async def while_waited_for(
    request: ApiRequest[Any, Any], submission: Coroutine[Any, Any, SubmittedT]
) -> SubmittedT | None:
    """Submit, and return the result for the client. Return None if the client disconnected before.

    After the response, call ``Tracker.answered``. If the client disconnects, the submission continues. If the client
    then repeats the request, it gets the same task.
    """
    submitting = asyncio.create_task(submission)
    # The tracker counts the stored part of the body until the provider has answered.
    request.resources.release_bytes()
    leaving = asyncio.create_task(disconnected(request.http.receive))
    try:
        await asyncio.wait({submitting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if not submitting.done():
        submitting.cancel()
        return None
    result = submitting.result()
    if leaving.done():
        # The tracker is notified first, because the client may repeat the request at any moment.
        await request.tracker.abandoned(result.task if isinstance(result, Created) else result)
        return None
    return result
