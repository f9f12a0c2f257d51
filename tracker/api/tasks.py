"""The task API: the state of each task, its history, and what a client can do about it."""

import asyncio
import re
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.background import BackgroundTask
from starlette.responses import Response

from tracker.api import rendering as show
from tracker.api import schemas
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.disconnect import CLIENT_LEFT, while_connected
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest, Header, json_response
from tracker.api.schemas import TaskQuery, WaitQuery
from tracker.api.submitting import IDEMPOTENCY_KEY, idempotency_key, while_waited_for
from tracker.api.task_bodies import AdoptBody, AttachBody, CreateBody, ExpectBody, ResolveBody
from tracker.errors import Conflict, Forbidden, NotFound, Overloaded, Refused, TooMany
from tracker.model.records import TaskFilter
from tracker.model.task import Status
from tracker.model.untrusted import READ_IN_THREAD
from tracker.providers.kling_bodies import BODIES
from tracker.service.creation import CreateRequest

task_endpoint: Final = partial(ApiEndpoint, group="tasks")
IF_NONE_MATCH: Final = Header("If-None-Match", 64)
NAME_USED: Final = (
    "another task has this external_id or Idempotency-Key, and its provider, kind, model or input differs. "
    "Use another one, or repeat the request unchanged"
)
VERSION_TAG: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"')


async def list_tasks(request: ApiRequest[TaskQuery, Nothing]) -> Response:
    """List tasks, newest first."""
    query, client = request.query, request.client
    if query.client is not None and query.client != client.name and not client.sees_all:
        raise Forbidden("this key sees only its own client's tasks")
    wanted = TaskFilter(
        client=query.client if client.sees_all else client.name,
        statuses=tuple(query.status),
        provider=query.provider,
        kind=query.kind,
        model=query.model,
        tag=query.tag,
        metadata=query.metadata,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    page = await request.tracker.find(wanted, limit=query.limit, cursor=query.cursor, client=client)
    tasks = [show.task(task) for task in page.tasks]
    return json_response(schemas.TaskPageShown(tasks=tasks, next_cursor=page.next_cursor))


async def get_task(request: ApiRequest[WaitQuery, Nothing]) -> Response:
    """Return one task; with `wait`, once it changes.

    A client may also send the version that it knows as an ETag.
    """
    tag = VERSION_TAG.fullmatch(request.http.headers.get(IF_NONE_MATCH.name, ""))
    known = int(tag[1]) if tag is not None else None
    since = known if request.query.version is None else request.query.version
    if request.query.wait:
        request.resources.wait()
        most = timedelta(seconds=request.query.wait)
        changing = request.tracker.changed(request.client, request.ref, since=since, most=most)
        task = await while_connected(request.http.receive, changing)
        if task is None:
            return Response(status_code=CLIENT_LEFT)
    else:
        task = await request.tracker.get(request.client, request.ref)
    # Weak: the times and the number of the polls change without a new version.
    headers = {"etag": f'W/"{task.version}"'}
    if task.version == known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return json_response(show.task(task), headers=headers)


async def get_history(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Show each observation of a task: its source, its trust level and its effect."""
    task, entries = await request.tracker.history(request.client, request.ref)
    shown = [show.entry(entry, with_body=request.client.sees_all) for entry in entries]
    state = await request.tracker.watch.state(task.provider, task.account)
    account = show.account(state, request.tracker.clock())
    return json_response(schemas.HistoryShown(task=show.task(task), entries=shown, account=account))


async def poll_task(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Poll the provider about a task now."""
    task, outcome = await request.tracker.poll(request.client, request.ref)
    return json_response(schemas.PolledShown(task=show.task(task), outcome=outcome))


async def resolve_task(request: ApiRequest[Nothing, ResolveBody]) -> Response:
    """Resolve a task by hand that no poll can settle."""
    body = request.body
    status = Status(body.status) if body.status is not None else None
    task = await request.tracker.resolve(
        request.client, request.ref, status=status, provider_task_id=body.provider_task_id, note=body.note
    )
    return json_response(show.task(task))


async def attach_task(request: ApiRequest[Nothing, AttachBody]) -> Response:
    """Attach the provider's ID to a task that was expected."""
    return json_response(
        show.task(await request.tracker.attach(request.client, request.ref, request.body.provider_task_id))
    )


async def create_task(request: ApiRequest[Nothing, CreateBody]) -> Response:
    """Submit a task at any provider."""
    body = request.body
    wanted = CreateRequest(
        provider=body.provider,
        kind=body.kind,
        input=body.input,
        model=body.model,
        external_id=body.external_id,
        callback_url=body.callback_url,
        idempotency_key=idempotency_key(request.http),
        deadline=_duration(body.deadline),
        tags=tuple(body.tags),
        metadata=body.metadata,
    )
    tracker = request.tracker
    prepare = partial(tracker.prepare, request.client, wanted, answered_later=True)
    # Its bytes are counted until the intake counts them.
    large = request.resources.body_bytes > READ_IN_THREAD
    prepared = await asyncio.to_thread(prepare) if large else prepare()
    try:
        created = await while_waited_for(request, tracker.intake.submit(prepared))
    except Conflict:
        raise Conflict(NAME_USED) from None
    if created is None:
        return Response(status_code=CLIENT_LEFT)
    task = created.task
    response = json_response(
        show.task(task),
        HTTPStatus.CREATED if created.is_new else HTTPStatus.OK,
        headers={"location": f"/v1/tasks/{task.id}"},
    )
    response.background = BackgroundTask(tracker.answered, task.id)
    return response


async def expect_task(request: ApiRequest[Nothing, ExpectBody]) -> Response:
    """Record a task before you submit it yourself, and get a callback URL for it."""
    body = request.body
    expected = await request.tracker.expect(
        request.client,
        provider=body.provider,
        kind=body.kind,
        external_id=body.external_id,
        deadline=_duration(body.deadline),
        tags=tuple(body.tags),
        metadata=body.metadata,
    )
    shown = schemas.ExpectedShown(task=show.task(expected.task), callback_url=expected.callback_url)
    return json_response(shown, HTTPStatus.CREATED)


async def adopt_task(request: ApiRequest[Nothing, AdoptBody]) -> Response:
    """Adopt a task that is already running at the provider."""
    body = request.body
    task = await request.tracker.adopt(
        request.client,
        provider=body.provider,
        kind=body.kind,
        provider_task_id=body.provider_task_id,
        external_id=body.external_id,
        deadline=_duration(body.deadline),
        tags=tuple(body.tags),
        metadata=body.metadata,
    )
    return json_response(show.task(task), HTTPStatus.CREATED)


def _duration(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None


# Several kinds may share a schema.
INPUTS: Final = tuple(dict.fromkeys(BODIES[kind].__name__ for kind in sorted(BODIES)))

# Literal paths come before {ref}: the first that matches is taken.
TASKS: Final = (
    task_endpoint("GET", "/v1/tasks", list_tasks, schemas.TaskPageShown, errors=(Forbidden,)),
    task_endpoint(
        "POST",
        "/v1/tasks",
        create_task,
        schemas.TaskShown,
        status=HTTPStatus.CREATED,
        also=(HTTPStatus.OK,),
        headers=(IDEMPOTENCY_KEY,),
        takes_media=True,
        alternatives={"input": INPUTS},
        errors=(Conflict, Refused, *PROVIDER_ERRORS),
    ),
    task_endpoint(
        "POST",
        "/v1/tasks/expect",
        expect_task,
        schemas.ExpectedShown,
        status=HTTPStatus.CREATED,
        errors=(Conflict, Overloaded),
    ),
    task_endpoint(
        "POST",
        "/v1/tasks/adopt",
        adopt_task,
        schemas.TaskShown,
        status=HTTPStatus.CREATED,
        errors=(NotFound, Conflict, *PROVIDER_ERRORS),
    ),
    task_endpoint(
        "GET",
        "/v1/tasks/{ref}",
        get_task,
        schemas.TaskShown,
        bare=(HTTPStatus.NOT_MODIFIED,),
        headers=(IF_NONE_MATCH,),
        errors=(TooMany, Overloaded),
    ),
    task_endpoint("PATCH", "/v1/tasks/{ref}", attach_task, schemas.TaskShown, errors=(Conflict,)),
    task_endpoint("GET", "/v1/tasks/{ref}/history", get_history, schemas.HistoryShown),
    task_endpoint("POST", "/v1/tasks/{ref}/poll", poll_task, schemas.PolledShown, errors=(Conflict, *PROVIDER_ERRORS)),
    task_endpoint(
        "POST", "/v1/tasks/{ref}/resolve", resolve_task, schemas.TaskShown, errors=(Conflict, *PROVIDER_ERRORS)
    ),
)
