"""The gateway in Kling's shape: a client of Kling changes its base URL and nothing else.

Answers come from the database, in the provider's shapes, with Homing's task ID. An answered create request never
creates a second task. An error answer means that no task was created.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final
from urllib.parse import unquote

from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tracker.api.gateway_errors import ENVELOPE
from tracker.api.gateway_schemas import (
    CreatedEnvelope,
    IgnoredQuery,
    ListQuery,
    TaskEnvelope,
    TaskListEnvelope,
)
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.body import read_body, require_json
from tracker.api.http.disconnect import CLIENT_LEFT
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest, BodySchemas, Header
from tracker.api.submitting import IDEMPOTENCY_KEY, idempotency_key, while_waited_for
from tracker.errors import Conflict, InvalidRequest, NotFound
from tracker.model.records import TaskFilter
from tracker.model.task import TAGS_HEADER, Status
from tracker.model.untrusted import READ_IN_THREAD, read_object
from tracker.providers.base import Order, Provider
from tracker.providers.kling_bodies import BODIES
from tracker.providers.kling_bounds import schemas_of
from tracker.providers.kling_gateway import created, legacy_envelope, legacy_task
from tracker.providers.kling_kinds import KINDS

gateway_endpoint: Final = partial(ApiEndpoint, group="gateway", dialect=ENVELOPE)
# Enough for 20 tags, even if they are percent-encoded.
TASK_TAGS: Final = Header(TAGS_HEADER, 8192)
KLING: Final = "kling"
PREFIXES: Final = ("/kling", "")
# Below these prefixes an unknown path is answered in the provider's envelope, because only its clients use them.
GATEWAY_PREFIXES: Final = (
    "/kling",
    "/v1/images",
    "/v1/videos",
    "/v1/audio",
    "/v1/general",
    "/tasks",
    "/solutions",
    *(f"/{name}" for name, kind in KINDS.items() if kind.dialect == "new"),
)
# For the provider's clients, a refused submission created no task.
LISTED_STATUSES: Final = tuple(status for status in Status if status is not Status.REJECTED)


async def create_task(request: ApiRequest[Nothing, Nothing], *, kind: str) -> Response:
    """Submit a task of a kind."""
    http, resources, limits, tracker = request.http, request.resources, request.limits, request.tracker
    require_json(http)
    key, tags = idempotency_key(http), tags_of(http)
    raw = await read_body(http, resources, limit=limits.gateway_body, within=limits.gateway_body_time)
    provider = tracker.providers[KLING].provider
    large = len(raw) > READ_IN_THREAD
    parse = partial(_parse_order, provider, kind, raw, model=http.path_params.get("model", ""))
    order = await asyncio.to_thread(parse) if large else parse()
    del raw
    task = await while_waited_for(
        request, tracker.submit(request.client, KLING, order, tags=tags, idempotency_key=key, answered_later=True)
    )
    if task is None:
        return Response(status_code=CLIENT_LEFT)
    answer = legacy_envelope(created(task), request_id=request.request_id)
    return JSONResponse(answer, background=BackgroundTask(tracker.answered, task.id))


def _parse_order(provider: Provider, kind: str, raw: bytes, *, model: str) -> Order:
    return provider.order(kind, read_object(raw), model=model)


async def get_task_of_kind(request: ApiRequest[IgnoredQuery, Nothing], *, kind: str) -> Response:
    ref = request.ref
    try:
        task = await request.tracker.fetch(request.client, ref, provider=KLING, kind=kind)
    except NotFound:
        raise NotFound(f"Task not found by id/external id: {ref}") from None
    return JSONResponse(legacy_envelope(legacy_task(task), request_id=request.request_id))


async def list_tasks_of_kind(request: ApiRequest[ListQuery, Nothing], *, kind: str) -> Response:
    page, size = request.query.pageNum, request.query.pageSize
    client_name = None if request.client.sees_all else request.client.name
    wanted = TaskFilter(client=client_name, provider=KLING, kind=kind, statuses=LISTED_STATUSES)
    tasks = await request.tracker.find_numbered(wanted, client=request.client, offset=(page - 1) * size, limit=size)
    return JSONResponse(legacy_envelope([legacy_task(task) for task in tasks], request_id=request.request_id))


def tags_of(request: Request) -> Sequence[str]:
    """Return the tags of the header. They are separated by commas and may be percent-encoded."""
    given = ",".join(request.headers.getlist(TASK_TAGS.name))
    if len(given) > TASK_TAGS.max_length:
        raise InvalidRequest(f"{TASK_TAGS.name} is longer than {TASK_TAGS.max_length} characters")
    try:
        return [unquote(item, errors="strict") for part in given.split(",") if (item := part.strip())]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{TASK_TAGS.name} is not percent-encoded UTF-8") from None


def create_endpoint(kind: str, path: str, reply: type[BaseModel], suffix: str) -> ApiEndpoint:
    """Return the endpoint that submits tasks of a kind."""
    body = BODIES[kind]
    return gateway_endpoint(
        "POST",
        path,
        partial(create_task, kind=kind),
        reply,
        name=f"create_{_named(kind)}{suffix}",
        summary=f"Submit a task of kind `{kind}`",
        documented_body=BodySchemas(name=body.__name__, schemas=schemas_of(body)),
        headers=(IDEMPOTENCY_KEY, TASK_TAGS),
        errors=(Conflict, *PROVIDER_ERRORS),
    )


def _endpoints(prefix: str, suffix: str) -> Iterator[ApiEndpoint]:
    for kind in (name for name, kind in KINDS.items() if kind.is_legacy):
        path, name = f"{prefix}/v1/{kind}", _named(kind) + suffix
        yield create_endpoint(kind, path, CreatedEnvelope, suffix)
        yield gateway_endpoint(
            "GET",
            path,
            partial(list_tasks_of_kind, kind=kind),
            TaskListEnvelope,
            name=f"list_{name}",
            summary=f"List your tasks of kind `{kind}`, newest first",
        )
        yield gateway_endpoint(
            "GET",
            f"{path}/{{ref}}",
            partial(get_task_of_kind, kind=kind),
            TaskEnvelope,
            name=f"get_{name}",
            summary=f"Return one task of kind `{kind}`; look an unknown ID up at the provider once",
            errors=PROVIDER_ERRORS,
        )


def _named(kind: str) -> str:
    return re.sub(r"\W", "_", kind)


GATEWAY: Final = (*_endpoints("/kling", ""), *_endpoints("", "_unprefixed"))
