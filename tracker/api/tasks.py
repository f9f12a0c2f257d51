"""The task state API: what we believe, how we know it, and the few things a caller can do about it."""

import re
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tracker.api import rendering as show
from tracker.api import schemas
from tracker.api.http.disconnect import CLIENT_LEFT, while_there
from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, Header, shown
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.schemas import Nothing
from tracker.api.schemas import AdoptBody, AttachBody, ExpectBody, ResolveBody, TaskQuery, WaitQuery
from tracker.errors import (
    Conflict,
    CredentialRefused,
    Forbidden,
    HomingError,
    NotFound,
    Overloaded,
    ProviderUnavailable,
    TooMany,
)
from tracker.model.records import TaskFilter
from tracker.model.task import Status

GROUP: Final = "tasks"
IF_NONE_MATCH: Final = Header("If-None-Match", 64)
ETAG: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"')
# What asking the provider may add.
ASKING: Final[tuple[type[HomingError], ...]] = (ProviderUnavailable, CredentialRefused, Overloaded, TooMany)


async def _list(ask: Ask[TaskQuery, Nothing]) -> Response:
    query, caller = ask.query, ask.caller
    if query.client is not None and query.client != caller.name and not caller.sees_all:
        raise Forbidden("this key sees only its own client's tasks")
    wanted = TaskFilter(
        client=query.client if caller.sees_all else caller.name,
        statuses=tuple(query.status),
        provider=query.provider,
        kind=query.kind,
        tag=query.tag,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    page = await ask.tracker.find(wanted, limit=query.limit, cursor=query.cursor, caller=caller)
    tasks = [show.task(task) for task in page.tasks]
    return shown(schemas.TaskPageShown(tasks=tasks, next_cursor=page.next_cursor))


async def _get(ask: Ask[WaitQuery, Nothing]) -> Response:
    """Return a task now, or once it changes. A client may also send the version it knows as an ETag."""
    known = _known(ask.request)
    since = known if ask.query.version is None else ask.query.version
    if ask.query.wait:
        ask.held.wait()
        most = timedelta(seconds=ask.query.wait)
        changing = ask.tracker.changed(ask.caller, ask.ref, since=since, most=most)
        task = await while_there(ask.request.receive, changing)
        if task is None:
            return Response(status_code=CLIENT_LEFT)
    else:
        task = await ask.tracker.get(ask.caller, ask.ref)
    # Weak: when we look again, and how often we have, changes without a new version.
    tag = {"etag": f'W/"{task.version}"'}
    if task.version == known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=tag)
    return shown(show.task(task), headers=tag)


def _known(request: Request) -> int | None:
    """Return the version that ``If-None-Match`` names, where it is a tag of ours."""
    found = ETAG.fullmatch(request.headers.get(IF_NONE_MATCH.name, ""))
    return int(found[1]) if found is not None else None


async def _history(ask: Ask[Nothing, Nothing]) -> Response:
    task, entries = await ask.tracker.history(ask.caller, ask.ref)
    told = [show.entry(entry, with_body=ask.caller.sees_all) for entry in entries]
    state = await ask.tracker.watch.state(task.provider, task.account)
    account = show.account(state, ask.tracker.clock())
    return shown(schemas.HistoryShown(task=show.task(task), entries=told, account=account))


async def _poll(ask: Ask[Nothing, Nothing]) -> Response:
    task, outcome = await ask.tracker.poll(ask.caller, ask.ref)
    return shown(schemas.PolledShown(task=show.task(task), outcome=outcome))


async def _resolve(ask: Ask[Nothing, ResolveBody]) -> Response:
    body = ask.body
    status = Status(body.status) if body.status is not None else None
    task = await ask.tracker.resolve(
        ask.caller, ask.ref, status=status, provider_task_id=body.provider_task_id, note=body.note
    )
    return shown(show.task(task))


async def _attach(ask: Ask[Nothing, AttachBody]) -> Response:
    return shown(show.task(await ask.tracker.attach(ask.caller, ask.ref, ask.body.provider_task_id)))


async def _expect(ask: Ask[Nothing, ExpectBody]) -> Response:
    body = ask.body
    expected = await ask.tracker.expect(
        ask.caller,
        provider=body.provider,
        kind=body.kind,
        external_id=body.external_id,
        deadline=_duration(body.deadline),
        tags=tuple(body.tags),
    )
    told = schemas.ExpectedShown(task=show.task(expected.task), callback_url=expected.callback_url)
    return shown(told, HTTPStatus.CREATED)


async def _adopt(ask: Ask[Nothing, AdoptBody]) -> Response:
    body = ask.body
    task = await ask.tracker.adopt(
        ask.caller,
        provider=body.provider,
        kind=body.kind,
        provider_task_id=body.provider_task_id,
        external_id=body.external_id,
        deadline=_duration(body.deadline),
        tags=tuple(body.tags),
    )
    return shown(show.task(task), HTTPStatus.CREATED)


def _duration(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None


# Literal paths come before {ref}: the first that matches is taken.
TASKS: Final[tuple[AnyEndpoint, ...]] = (
    Endpoint(
        method="GET",
        path="/v1/tasks",
        name="list_tasks",
        summary="List tasks, newest first",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_list,
        query=TaskQuery,
        body=Nothing,
        reply=schemas.TaskPageShown,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="POST",
        path="/v1/tasks/expect",
        name="expect_task",
        summary="Write a task down before you submit it yourself, and get a callback address for it",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_expect,
        query=Nothing,
        body=ExpectBody,
        reply=schemas.ExpectedShown,
        status=HTTPStatus.CREATED,
        errors=(Conflict, Overloaded),
    ),
    Endpoint(
        method="POST",
        path="/v1/tasks/adopt",
        name="adopt_task",
        summary="Take on a task that is already running at the provider",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_adopt,
        query=Nothing,
        body=AdoptBody,
        reply=schemas.TaskShown,
        status=HTTPStatus.CREATED,
        errors=(NotFound, Conflict, *ASKING),
    ),
    Endpoint(
        method="GET",
        path="/v1/tasks/{ref}",
        name="get_task",
        summary="Tell what is believed about one task; with `wait`, once that changes",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_get,
        query=WaitQuery,
        body=Nothing,
        reply=schemas.TaskShown,
        bare=(HTTPStatus.NOT_MODIFIED,),
        headers=(IF_NONE_MATCH,),
        errors=(TooMany, Overloaded),
    ),
    Endpoint(
        method="PATCH",
        path="/v1/tasks/{ref}",
        name="attach_task",
        summary="Tell the provider's id of a task that was expected",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_attach,
        query=Nothing,
        body=AttachBody,
        reply=schemas.TaskShown,
        errors=(Conflict,),
    ),
    Endpoint(
        method="GET",
        path="/v1/tasks/{ref}/history",
        name="get_history",
        summary="Show each observation of a task: who said it, how far it was believed, and why",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_history,
        query=Nothing,
        body=Nothing,
        reply=schemas.HistoryShown,
    ),
    Endpoint(
        method="POST",
        path="/v1/tasks/{ref}/poll",
        name="poll_task",
        summary="Ask the provider about a task now",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_poll,
        query=Nothing,
        body=Nothing,
        reply=schemas.PolledShown,
        errors=(Conflict, *ASKING),
    ),
    Endpoint(
        method="POST",
        path="/v1/tasks/{ref}/resolve",
        name="resolve_task",
        summary="Settle a task that cannot be settled by asking",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_resolve,
        query=Nothing,
        body=ResolveBody,
        reply=schemas.TaskShown,
        errors=(Conflict, *ASKING),
    ),
)
