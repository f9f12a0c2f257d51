"""The recorded helper calls, for keys that see all clients."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field
from starlette.responses import Response

from tracker.api.http.base_schemas import Nothing, Shown, Taken
from tracker.api.http.endpoint import ApiRequest, json_response
from tracker.api.operations import operator_endpoint
from tracker.api.schemas import LARGEST_ID, MAX_PAGE_SIZE
from tracker.model.helper_records import HelperState
from tracker.model.untrusted import ID_LENGTH


class HelperCallsQuery(Taken):
    """The calls to list, newest first. ``cursor`` is ``next_cursor`` of the previous page."""

    client: Annotated[str, Field(min_length=1, max_length=ID_LENGTH)] | None = None
    state: HelperState | None = None
    cursor: Annotated[int, Field(ge=0, le=LARGEST_ID)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 100


class HelperCallShown(Shown):
    """One recorded helper call, without its request and without its answer."""

    id: int
    created_at: datetime
    ended_at: datetime | None
    provider: str
    client: str
    call: str
    idempotency_key: str | None
    state: Annotated[str, Field(description="`unknown`: no readable answer came, so it may have been charged.")]
    http_status: int | None
    answer_sha256: str
    answer_bytes: int
    why: str


class HelperCallsShown(Shown):
    """A page of recorded helper calls, newest first."""

    calls: list[HelperCallShown]
    next_cursor: int | None


async def list_helper_calls(request: ApiRequest[HelperCallsQuery, Nothing]) -> Response:
    """List helper calls that cost or make something, newest first."""
    query = request.query
    found = await request.tracker.store.helper_calls.page(
        client=query.client, state=query.state, before=query.cursor, limit=query.limit + 1
    )
    page = found[: query.limit]
    further = page[-1].id if len(found) > query.limit else None
    calls = [
        HelperCallShown(
            id=record.id,
            created_at=record.created_at,
            ended_at=record.ended_at,
            provider=record.provider,
            client=record.client,
            call=record.call,
            idempotency_key=record.idempotency_key,
            state=record.state.value,
            http_status=record.http_status,
            answer_sha256=record.digest,
            answer_bytes=record.size,
            why=record.why,
        )
        for record in page
    ]
    return json_response(HelperCallsShown(calls=calls, next_cursor=further))


HELPER_RECORDS: Final = (operator_endpoint("GET", "/v1/helper-calls", list_helper_calls, HelperCallsShown),)
