"""The gateway in Kling's shape: a client of Kling changes its base address and nothing else.

Answers come from the table, in the provider's shapes, with our task id. A create that was answered is never made twice;
an error answer means that nothing was created.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final
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
    OmniImageBody,
    TaskEnvelope,
    TaskListEnvelope,
)
from tracker.api.http.body import read_body, require_json
from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, Header
from tracker.api.http.schemas import Nothing
from tracker.errors import (
    Conflict,
    CredentialRefused,
    HomingError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProviderUnavailable,
    TooMany,
)
from tracker.model.records import TaskFilter
from tracker.model.task import TAGS_HEADER, Status, Task
from tracker.model.untrusted import ID_LENGTH, READ_IN_THREAD, JsonValue, identifier, read_object
from tracker.providers.base import Kind, Order, Provider
from tracker.providers.kling import Kling
from tracker.providers.kling_gateway import legacy_created, legacy_envelope, legacy_task, new_task

GROUP: Final = "gateway"
IDEMPOTENCY_KEY: Final = Header("Idempotency-Key", ID_LENGTH)
# Percent-encoded, 20 tags hardly ever need more.
TAGS: Final = Header(TAGS_HEADER, 8192)
KLING: Final = "kling"
# Nobody reads it: what the log says of a request whose client hung up.
CLIENT_LEFT: Final = 499
OMNI_IMAGE: Final = "images/omni-image"
PREFIXES: Final = ("/kling", "")
# Below these an unknown path is answered in the provider's envelope: only a client of the provider asks there.
FOREIGN: Final = ("/kling", "/v1/images", "/v1/videos", "/v1/audio", "/v1/general")
# "cannot exceed 20 in total", as the provider itself says.
BATCH: Final = 20
# To the provider's clients a refused submit made no task.
LISTED: Final = tuple(status for status in Status if status is not Status.REJECTED)
ASKING: Final[tuple[type[HomingError], ...]] = (ProviderUnavailable, CredentialRefused, Overloaded, TooMany)


async def _submit(ask: Ask[Nothing, Nothing]) -> Response:
    request, limit = ask.request, ask.limits.gateway_body
    provider = ask.tracker.providers[KLING].provider
    require_json(request)
    key, tags = _idempotency_key(request), _tags(request)
    raw = await read_body(request, ask.held, limit=limit, within=ask.limits.gateway_body_time)
    order = await _order(provider, raw)
    del raw
    submitting = asyncio.create_task(
        ask.tracker.submit(ask.caller, KLING, order, tags=tags, idempotency_key=key, answered_later=True)
    )
    # The tracker counts what it keeps of the body until the provider has answered.
    ask.held.give_bytes()
    gone = await _left_before(request, submitting)
    if not submitting.done():
        # The submit itself goes on; what its client sends again, after hanging up, is the same wish.
        submitting.cancel()
        return Response(status_code=CLIENT_LEFT)
    task = submitting.result()
    if gone:
        # Known before anything else is done: it may be sent again at any moment.
        await ask.tracker.abandoned(task)
        return Response(status_code=CLIENT_LEFT)
    created = legacy_envelope(legacy_created(task), request_id=ask.request_id)
    return JSONResponse(created, background=BackgroundTask(ask.tracker.answered, task.id))


async def _left_before(request: Request, submitting: asyncio.Task[Task]) -> bool:
    """Wait for the submit, or for its client to hang up; tell whether it did."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    try:
        await asyncio.wait({submitting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    return leaving.done() and not leaving.cancelled()


async def _get(ask: Ask[IgnoredQuery, Nothing], *, kind: str) -> Response:
    ref = ask.ref
    try:
        task = await ask.tracker.fetch(ask.caller, ref, provider=KLING, kind=kind)
    except NotFound:
        raise NotFound(f"Task not found by id/external id: {ref}") from None
    return _enveloped(ask, legacy_task(task))


async def _list(ask: Ask[ListQuery, Nothing], *, kind: str) -> Response:
    page, size = ask.query.pageNum, ask.query.pageSize
    client = None if ask.caller.sees_all else ask.caller.name
    wanted = TaskFilter(client=client, provider=KLING, kind=kind, statuses=LISTED)
    tasks = await ask.tracker.find_numbered(wanted, caller=ask.caller, offset=(page - 1) * size, limit=size)
    return _enveloped(ask, [legacy_task(task) for task in tasks])


async def _batch(ask: Ask[BatchQuery, Nothing]) -> Response:
    try:
        async with asyncio.timeout(ask.limits.batch_time.total_seconds()):
            found = await ask.tracker.fetch_many(ask.caller, _ids(ask.query), provider=KLING, kind=OMNI_IMAGE)
    except TimeoutError:
        raise ProviderUnavailable(
            "the provider did not answer in time about the tasks that are not known here"
        ) from None
    return _enveloped(ask, [new_task(task) for task in found])


def _ids(query: BatchQuery) -> Sequence[str]:
    """Return the ids of whichever field has them, each once."""
    told = [ids for ids in (query.task_ids, query.external_task_ids) if ids]
    if len(told) != 1:
        raise InvalidRequest("give exactly one of task_ids and external_task_ids")
    ids = [word for part in told[0].split(",") if (word := part.strip())]
    if not ids:
        raise InvalidRequest("give at least one id")
    if len(ids) > BATCH:
        raise InvalidRequest(f"ids cannot exceed {BATCH} in total")
    # An id that nothing can have is absent from the answer, like any that is not known.
    return list(dict.fromkeys(ref for ref in ids if identifier(ref) is not None))


def _idempotency_key(request: Request) -> str | None:
    told = request.headers.getlist(IDEMPOTENCY_KEY.name)
    if not told:
        return None
    key = identifier(told[0]) if len(told) == 1 else None
    if key is None:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY.name} must be given once, as 1 to {ID_LENGTH} printable characters")
    return key


def _tags(request: Request) -> Sequence[str]:
    """Read the tags: separated by commas, each percent-encoded where it is more than plain ASCII."""
    told = ",".join(request.headers.getlist(TAGS.name))
    if len(told) > TAGS.longest:
        raise InvalidRequest(f"{TAGS.name} is longer than {TAGS.longest} characters")
    try:
        return [unquote(word, errors="strict") for part in told.split(",") if (word := part.strip())]
    except UnicodeDecodeError:
        raise InvalidRequest(f"{TAGS.name} is not percent-encoded UTF-8") from None


async def _order(provider: Provider, raw: bytes) -> Order:
    """Read and check the body; off the event loop where it is large."""

    def read() -> Order:
        return provider.order(OMNI_IMAGE, read_object(raw))

    return read() if len(raw) <= READ_IN_THREAD else await asyncio.to_thread(read)


def _enveloped(ask: Ask[Any, Any], data: JsonValue) -> Response:
    return JSONResponse(legacy_envelope(data, request_id=ask.request_id))


def _endpoints(prefix: str, suffix: str) -> Iterator[AnyEndpoint]:
    for kind in Kling.kinds.values():
        yield from _kind_endpoints(kind, prefix, suffix)
    yield Endpoint(
        method="GET",
        path=f"{prefix}/tasks",
        name=f"get_tasks{suffix}",
        summary="Return several tasks by ID, in the shape of the new standard",
        group=GROUP,
        dialect=ENVELOPE,
        answer=_batch,
        query=BatchQuery,
        body=Nothing,
        reply=NewTasksEnvelope,
        errors=ASKING,
    )


def _kind_endpoints(kind: Kind, prefix: str, suffix: str) -> Iterator[AnyEndpoint]:
    path = f"{prefix}/v1/{kind.name}"
    name = re.sub(r"\W", "_", kind.name) + suffix
    if kind.submits:
        yield Endpoint(
            method="POST",
            path=path,
            name=f"create_{name}",
            summary=f"Submit a task of kind `{kind.name}`",
            group=GROUP,
            dialect=ENVELOPE,
            answer=_submit,
            query=Nothing,
            body=Nothing,
            documented_body=OmniImageBody,
            headers=(IDEMPOTENCY_KEY, TAGS),
            reply=CreatedEnvelope,
            errors=(Conflict, *ASKING),
        )
    yield Endpoint(
        method="GET",
        path=path,
        name=f"list_{name}",
        summary=f"List your tasks of kind `{kind.name}`, newest first",
        group=GROUP,
        dialect=ENVELOPE,
        answer=partial(_list, kind=kind.name),
        query=ListQuery,
        body=Nothing,
        reply=TaskListEnvelope,
    )
    yield Endpoint(
        method="GET",
        path=f"{path}/{{ref}}",
        name=f"get_{name}",
        summary=f"Return one task of kind `{kind.name}`; look an unknown ID up at the provider once",
        group=GROUP,
        dialect=ENVELOPE,
        answer=partial(_get, kind=kind.name),
        query=IgnoredQuery,
        body=Nothing,
        reply=TaskEnvelope,
        errors=ASKING,
    )


GATEWAY: Final[tuple[AnyEndpoint, ...]] = (*_endpoints("/kling", ""), *_endpoints("", "_unprefixed"))
