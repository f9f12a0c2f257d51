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

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tracker.api.gateway_errors import ENVELOPE
from tracker.api.gateway_schemas import (
    BatchQuery,
    CreatedEnvelope,
    IgnoredQuery,
    ListQuery,
    NewTasksEnvelope,
    TaskEnvelope,
    TaskListEnvelope,
)
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.body import read_body, require_json
from tracker.api.http.disconnect import CLIENT_LEFT, disconnected
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest, BodySchemas, Header
from tracker.errors import Conflict, InvalidRequest, NotFound, ProviderUnavailable
from tracker.model.records import TaskFilter
from tracker.model.task import TAGS_HEADER, Status
from tracker.model.untrusted import ID_LENGTH, READ_IN_THREAD, identifier, read_object
from tracker.providers.base import Kind, Order, Provider
from tracker.providers.kling import Kling
from tracker.providers.kling_bodies import BODIES
from tracker.providers.kling_bounds import schemas_of
from tracker.providers.kling_gateway import legacy_created, legacy_envelope, legacy_task, new_task
from tracker.providers.kling_kinds import OMNI_IMAGE

gateway_endpoint: Final = partial(ApiEndpoint, group="gateway", dialect=ENVELOPE)
IDEMPOTENCY_KEY: Final = Header("Idempotency-Key", ID_LENGTH)
# Enough for 20 tags, even if they are percent-encoded.
TASK_TAGS: Final = Header(TAGS_HEADER, 8192)
KLING: Final = "kling"
PREFIXES: Final = ("/kling", "")
# Below these prefixes an unknown path is answered in the provider's envelope, because only its clients use them.
GATEWAY_PREFIXES: Final = ("/kling", "/v1/images", "/v1/videos", "/v1/audio", "/v1/general")
# The provider's limit: "cannot exceed 20 in total".
MAX_BATCH_IDS: Final = 20
# For the provider's clients, a refused submission created no task.
LISTED_STATUSES: Final = tuple(status for status in Status if status is not Status.REJECTED)


async def create_task(request: ApiRequest[Nothing, Nothing], *, kind: str) -> Response:
    """Submit a task of a kind."""
    http, resources, limits, tracker = request.http, request.resources, request.limits, request.tracker
    require_json(http)
    key, tags = _idempotency_key(http), _tags(http)
    raw = await read_body(http, resources, limit=limits.gateway_body, within=limits.gateway_body_time)
    provider = tracker.providers[KLING].provider
    large = len(raw) > READ_IN_THREAD
    parse = partial(_parse_order, provider, kind, raw)
    order = await asyncio.to_thread(parse) if large else parse()
    del raw
    submitting = asyncio.create_task(
        tracker.submit(request.client, KLING, order, tags=tags, idempotency_key=key, answered_later=True)
    )
    # The tracker counts the stored part of the body until the provider has answered.
    resources.release_bytes()
    leaving = asyncio.create_task(disconnected(http.receive))
    try:
        await asyncio.wait({submitting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if not submitting.done():
        # The submission continues in the background. If the client repeats the request, it gets the same task.
        submitting.cancel()
        return Response(status_code=CLIENT_LEFT)
    task = submitting.result()
    if leaving.done():
        # The tracker is notified first, because the client may repeat the request at any moment.
        await tracker.abandoned(task)
        return Response(status_code=CLIENT_LEFT)
    created = legacy_envelope(legacy_created(task), request_id=request.request_id)
    return JSONResponse(created, background=BackgroundTask(tracker.answered, task.id))


def _parse_order(provider: Provider, kind: str, raw: bytes) -> Order:
    return provider.order(kind, read_object(raw))


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


async def get_tasks(request: ApiRequest[BatchQuery, Nothing]) -> Response:
    """Return several tasks by ID, in the shape of the new standard."""
    ids = _batch_ids(request.query)
    try:
        async with asyncio.timeout(request.limits.batch_time.total_seconds()):
            found = await request.tracker.fetch_many(request.client, ids, provider=KLING, kind=OMNI_IMAGE)
    except TimeoutError:
        raise ProviderUnavailable(
            "the provider did not answer in time about the tasks that are not known here"
        ) from None
    return JSONResponse(legacy_envelope([new_task(task) for task in found], request_id=request.request_id))


def _batch_ids(query: BatchQuery) -> Sequence[str]:
    """Return the IDs of the one field that is set, without duplicates."""
    fields = [ids for ids in (query.task_ids, query.external_task_ids) if ids]
    if len(fields) != 1:
        raise InvalidRequest("set exactly one of task_ids and external_task_ids")
    ids = [item for part in fields[0].split(",") if (item := part.strip())]
    if not ids:
        raise InvalidRequest("set at least one ID")
    if len(ids) > MAX_BATCH_IDS:
        raise InvalidRequest(f"ids cannot exceed {MAX_BATCH_IDS} in total")
    # An invalid ID is absent from the answer, like any unknown one.
    return list(dict.fromkeys(ref for ref in ids if identifier(ref) is not None))


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist(IDEMPOTENCY_KEY.name)
    if not given:
        return None
    key = identifier(given[0]) if len(given) == 1 else None
    if key is None:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY.name} must be given once, as 1 to {ID_LENGTH} printable characters")
    return key


def _tags(request: Request) -> Sequence[str]:
    """Return the tags of the header. They are separated by commas and may be percent-encoded."""
    given = ",".join(request.headers.getlist(TASK_TAGS.name))
    if len(given) > TASK_TAGS.max_length:
        raise InvalidRequest(f"{TASK_TAGS.name} is longer than {TASK_TAGS.max_length} characters")
    try:
        return [unquote(item, errors="strict") for part in given.split(",") if (item := part.strip())]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{TASK_TAGS.name} is not percent-encoded UTF-8") from None


def _endpoints(prefix: str, suffix: str) -> Iterator[ApiEndpoint]:
    for kind in Kling.kinds.values():
        yield from _kind_endpoints(kind, prefix, suffix)
    yield gateway_endpoint(
        "GET", f"{prefix}/tasks", get_tasks, NewTasksEnvelope, name=f"get_tasks{suffix}", errors=PROVIDER_ERRORS
    )


def _kind_endpoints(kind: Kind, prefix: str, suffix: str) -> Iterator[ApiEndpoint]:
    path = f"{prefix}/v1/{kind.name}"
    name = re.sub(r"\W", "_", kind.name) + suffix
    body = BODIES[kind.name]
    yield gateway_endpoint(
        "POST",
        path,
        partial(create_task, kind=kind.name),
        CreatedEnvelope,
        name=f"create_{name}",
        summary=f"Submit a task of kind `{kind.name}`",
        documented_body=BodySchemas(name=body.__name__, schemas=schemas_of(body)),
        headers=(IDEMPOTENCY_KEY, TASK_TAGS),
        errors=(Conflict, *PROVIDER_ERRORS),
    )
    yield gateway_endpoint(
        "GET",
        path,
        partial(list_tasks_of_kind, kind=kind.name),
        TaskListEnvelope,
        name=f"list_{name}",
        summary=f"List your tasks of kind `{kind.name}`, newest first",
    )
    yield gateway_endpoint(
        "GET",
        f"{path}/{{ref}}",
        partial(get_task_of_kind, kind=kind.name),
        TaskEnvelope,
        name=f"get_{name}",
        summary=f"Return one task of kind `{kind.name}`; look an unknown ID up at the provider once",
        errors=PROVIDER_ERRORS,
    )


GATEWAY: Final = (*_endpoints("/kling", ""), *_endpoints("", "_unprefixed"))
