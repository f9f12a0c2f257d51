"""The audit of operator actions, for keys that see all clients."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field
from starlette.responses import Response

from tracker.api.http.base_schemas import Nothing, Shown, Taken
from tracker.api.http.endpoint import ApiRequest, json_response
from tracker.api.operations import operator_endpoint
from tracker.api.schemas import LARGEST_ID, MAX_PAGE_SIZE
from tracker.model.records import Action
from tracker.model.untrusted import ID_LENGTH


class AuditQuery(Taken):
    """The entries to list, newest first. ``cursor`` is ``next_cursor`` of the previous page."""

    client: Annotated[str, Field(min_length=1, max_length=ID_LENGTH)] | None = None
    action: Action | None = None
    cursor: Annotated[int, Field(ge=0, le=LARGEST_ID)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)] = 100


class AuditEntryShown(Shown):
    """One action of a client."""

    id: int
    at: datetime
    client: str
    action: str
    object: str
    detail: str


class AuditShown(Shown):
    """A page of the audit, newest first."""

    entries: list[AuditEntryShown]
    next_cursor: int | None


async def list_audit(request: ApiRequest[AuditQuery, Nothing]) -> Response:
    """List the actions of operators: resolutions, replays, pauses, callback URLs, and secrets that were read."""
    query = request.query
    found = await request.tracker.audit.entries(
        client=query.client, action=query.action, before=query.cursor, limit=query.limit + 1
    )
    page = found[: query.limit]
    further = page[-1].id if len(found) > query.limit else None
    entries = [
        AuditEntryShown(
            id=entry.id,
            at=entry.at,
            client=entry.client,
            action=entry.action.value,
            object=entry.object,
            detail=entry.detail,
        )
        for entry in page
    ]
    return json_response(AuditShown(entries=entries, next_cursor=further))


AUDIT: Final = (operator_endpoint("GET", "/v1/audit", list_audit, AuditShown),)
