"""The gateway in the newer dialects: the model in the path, the products below ``/solutions``, and tasks of any kind.

Documentation: https://kling.ai/document-api, the pages of the new standard and of the solutions. A task that was made
in one dialect can be read in the other.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from tracker.api.gateway import KLING, LISTED_STATUSES, PREFIXES, create_endpoint, gateway_endpoint
from tracker.api.gateway_schemas import (
    BatchQuery,
    NewCreatedEnvelope,
    NewTasksEnvelope,
    TaskPageEnvelope,
    TasksBody,
)
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest
from tracker.errors import InvalidRequest, NotFound, ProviderUnavailable
from tracker.model.records import TaskFilter
from tracker.model.task import Status, Task
from tracker.model.untrusted import MOST_DIGITS, JsonObject, JsonValue, from_milliseconds, identifier, milliseconds
from tracker.providers.kling_gateway import legacy_envelope, new_task
from tracker.providers.kling_kinds import KINDS, OMNI_IMAGE, TRY_ON

# The provider's limit: "cannot exceed 20 in total".
MAX_BATCH_IDS: Final = 20
SOLUTIONS: Final = "solutions/"
# The default of the provider: the last 30 days.
WINDOW: Final = timedelta(days=30)
STATUSES: Final = {
    "submitted": (Status.PENDING, Status.SUBMITTED),
    "processing": (Status.PROCESSING,),
    "succeeded": (Status.SUCCEEDED,),
    "succeed": (Status.SUCCEEDED,),
    "failed": (Status.FAILED, Status.EXPIRED),
}
PRODUCTS: Final = ("video", "image", "try_on")


async def get_tasks(request: ApiRequest[BatchQuery, Nothing]) -> Response:
    """Return several tasks of any kind by ID, in the shape of the new standard."""
    ids = _batch_ids(request.query)
    try:
        async with asyncio.timeout(request.limits.batch_time.total_seconds()):
            found = await request.tracker.fetch_many(request.client, ids, provider=KLING, kind=OMNI_IMAGE)
    except TimeoutError:
        raise ProviderUnavailable(
            "the provider did not answer in time about the tasks that are not known here"
        ) from None
    return _answer([new_task(task) for task in found], request)


async def get_solutions(request: ApiRequest[BatchQuery, Nothing]) -> Response:
    """Return several tasks below /solutions by ID."""
    found = []
    for ref in _batch_ids(request.query):
        try:
            found.append(await request.tracker.get(request.client, ref, provider=KLING))
        except NotFound:
            continue
    return _answer([new_task(task) for task in found if task.kind.startswith(SOLUTIONS)], request)


async def list_tasks_by_cursor(request: ApiRequest[Nothing, TasksBody]) -> Response:
    """List your tasks of all kinds, newest first, in the shape of the new standard."""
    return await _listed(request, below="")


async def list_solutions_by_cursor(request: ApiRequest[Nothing, TasksBody]) -> Response:
    """List your tasks below /solutions, newest first."""
    return await _listed(request, below=SOLUTIONS)


async def _listed(request: ApiRequest[Nothing, TasksBody], *, below: str) -> Response:
    """Return a page. Tasks of other products are left out after reading, so a page may be short before the end."""
    body = request.body
    statuses, products = _filters(body)
    start, end, last = _opened(body.cursor) if body.cursor else (*_times(body, request.tracker.clock()), None)
    wanted = TaskFilter(
        client=None if request.client.sees_all else request.client.name,
        provider=KLING,
        statuses=statuses,
        created_after=start,
        created_before=end,
    )
    page = await request.tracker.find(wanted, client=request.client, limit=body.limit, cursor=last)
    tasks = [task for task in page.tasks if task.kind.startswith(below) and _product(task) in products]
    following = "" if page.next_cursor is None else _closed(start, end, page.next_cursor)
    data: JsonObject = {
        "result": [new_task(task) for task in tasks],
        "count": len(tasks),
        "next_cursor": following,
        "has_more": bool(following),
    }
    return _answer(data, request)


def _answer(data: JsonValue, request: ApiRequest[Any, Any]) -> Response:
    return JSONResponse(legacy_envelope(data, request_id=request.request_id))


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


def _filters(body: TasksBody) -> tuple[tuple[Status, ...], frozenset[str]]:
    """Return the statuses and the products that pass the filters."""
    statuses, products = set(LISTED_STATUSES), set(PRODUCTS)
    for one in body.filters:
        known = STATUSES if one.key == "status" else PRODUCTS
        if unknown := [value for value in one.values if value not in known]:
            raise InvalidRequest(f"filters: {one.key} has no value {unknown[0]!r:.40}. Use {', '.join(known)}")
        if one.key == "status":
            statuses &= {status for value in one.values for status in STATUSES[value]}
        else:
            products &= set(one.values)
    return tuple(status for status in Status if status in statuses), frozenset(products if statuses else ())


def _product(task: Task) -> str:
    if task.kind in {TRY_ON, "images/kolors-virtual-try-on"}:
        return "try_on"
    kind = KINDS.get(task.kind)
    return "image" if kind is not None and kind.results == ("image",) else "video"


def _times(body: TasksBody, now: datetime) -> tuple[datetime, datetime]:
    end = _time("end_time", body.end_time, now)
    return _time("start_time", body.start_time, end - WINDOW), end


def _time(name: str, value: str | int | None, default: datetime) -> datetime:
    if value in {None, ""}:
        return default
    text = str(value)
    found = from_milliseconds(int(text)) if text.isascii() and text.isdecimal() and len(text) < MOST_DIGITS else None
    if found is None:
        raise InvalidRequest(f"{name} must be a time in milliseconds")
    return found


def _closed(start: datetime, end: datetime, last: str) -> str:
    return base64.urlsafe_b64encode(f"{milliseconds(start)}.{milliseconds(end)}.{last}".encode()).decode()


def _opened(cursor: str) -> tuple[datetime, datetime, str]:
    try:
        start, end, last = base64.urlsafe_b64decode(cursor.encode()).decode().split(".")
        times = from_milliseconds(int(start)), from_milliseconds(int(end))
    except (ValueError, binascii.Error):
        times = None, None
    if times[0] is None or times[1] is None or identifier(last) is None:
        raise InvalidRequest("cursor must be the next_cursor of a page")
    return times[0], times[1], last


def _endpoints(prefix: str, suffix: str) -> Iterator[ApiEndpoint]:
    for name, kind in KINDS.items():
        if not kind.is_legacy:
            path = f"{prefix}/{name}" + ("/{model}" if kind.dialect == "new" else "")
            yield create_endpoint(name, path, NewCreatedEnvelope, suffix)
    for path, get, listed in (
        ("/tasks", get_tasks, list_tasks_by_cursor),
        ("/solutions", get_solutions, list_solutions_by_cursor),
    ):
        errors = PROVIDER_ERRORS if get is get_tasks else ()
        yield gateway_endpoint(
            "GET", f"{prefix}{path}", get, NewTasksEnvelope, name=f"{get.__name__}{suffix}", errors=errors
        )
        yield gateway_endpoint("POST", f"{prefix}{path}", listed, TaskPageEnvelope, name=f"{listed.__name__}{suffix}")


STANDARD: Final = tuple(
    endpoint
    for prefix, suffix in zip(PREFIXES, ("", "_unprefixed"), strict=True)
    for endpoint in _endpoints(prefix, suffix)
)
