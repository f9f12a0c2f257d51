"""Pages of tasks, by number on the legacy paths and by cursor on `POST /tasks`.

Documented: `pageNum` 1..1000 (1), `pageSize` 1..500 (30); `limit` 1..500 (100), times as text of milliseconds with
the last 30 days as default, filters by `status` and `product_type`, a cursor that overrides the times. Live: times as
numbers are accepted. Assumed: both are newest first, and the content of the cursor.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homing.sandbox.products import TRY_ON
from homing.sandbox.refusals import Refusal
from homing.sandbox.submission import JsonObject, json_object
from homing.sandbox.task import SUCCEED, Task

_THIRTY_DAYS = 30 * 24 * 3600 * 1000
_STATUSES = {"submitted": "submitted", "processing": "processing", "succeeded": SUCCEED, "failed": "failed"}
_TRY_ONS = (TRY_ON, "images/kolors-virtual-try-on")
_PRODUCTS = ("video", "image", "try_on")
_MAX_PAGE, _MAX_SIZE = 1000, 500


def numbered_page(tasks: Iterable[Task], query: Mapping[str, str]) -> list[Task]:
    """Return the requested page, or raise `Refusal` (1201)."""
    first, last = page_bounds(query)
    newest_first = sorted(tasks, key=lambda task: task.index, reverse=True)
    return newest_first[first:last]


def page_bounds(query: Mapping[str, str]) -> tuple[int, int]:
    """Return where the requested page begins and ends, or raise `Refusal` (1201)."""
    page = _bounded("pageNum", query.get("pageNum", "1"), _MAX_PAGE)
    size = _bounded("pageSize", query.get("pageSize", "30"), _MAX_SIZE)
    return (page - 1) * size, page * size


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorPage:
    """A page, and the cursor of the next one. The cursor is empty at the end."""

    tasks: list[Task]
    next_cursor: str


def cursor_page(tasks: Iterable[Task], raw: bytes, now: int) -> CursorPage:
    """Return the requested page, or raise `Refusal` (1200, 1201). `now` is in milliseconds."""
    body = json_object(raw) if raw.strip() else {}
    limit = _bounded("limit", body.get("limit") or 100, _MAX_SIZE)
    if cursor := body.get("cursor"):
        start, end, before = _opened(cursor)
    else:
        end = _time("end_time", body.get("end_time"), now)
        start = _time("start_time", body.get("start_time"), end - _THIRTY_DAYS)
        before = -1
    statuses, products = _filters(body)
    found = [
        task
        for task in sorted(tasks, key=lambda task: task.index, reverse=True)
        if start <= task.created_at <= end and (before < 0 or task.index < before) and _passes(task, statuses, products)
    ]
    page = found[:limit]
    more = len(found) > limit
    return CursorPage(tasks=page, next_cursor=_closed(start, end, page[-1].index) if more else "")


def _filters(body: JsonObject) -> tuple[set[str], set[str]]:
    """Return the legacy statuses and the products that pass the filters."""
    statuses, products = set(_STATUSES.values()), set(_PRODUCTS)
    filters = body.get("filters") or []
    if not isinstance(filters, list) or not all(isinstance(entry, dict) for entry in filters):
        raise Refusal(1201, "filters is a list of {key, values}")
    for entry in filters:
        key, values = entry.get("key"), entry.get("values")
        known = {"status": tuple(_STATUSES), "product_type": _PRODUCTS}.get(key) if isinstance(key, str) else None
        if known is None or not isinstance(values, list) or not all(value in known for value in values):
            raise Refusal(1201, "a filter has the key status or product_type, and known values")
        if key == "status":
            statuses &= {_STATUSES[value] for value in values}
        else:
            products &= set(values)
    return statuses, products


def _passes(task: Task, statuses: set[str], products: set[str]) -> bool:
    """Return whether a task passes the filters. Assumed: all that is no picture and no try-on counts as a video."""
    kind = task.submission.kind
    product = "try_on" if kind in _TRY_ONS else "image" if kind.startswith("images/") else "video"
    return task.state.status in statuses and product in products


def _bounded(name: str, value: object, high: int) -> int:
    number = _integer(value)
    if number is None or not 1 <= number <= high:
        raise Refusal(1201, f"{name} is an integer from 1 to {high}")
    return number


def _time(name: str, value: object, default: int) -> int:
    if value is None or value == "":
        return default
    number = _integer(value)
    if number is None:
        raise Refusal(1201, f"{name} is a time in milliseconds")
    return number


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - 64 bits
        return int(value)
    return value if isinstance(value, int) else None


def _closed(start: int, end: int, before: int) -> str:
    return base64.urlsafe_b64encode(f"{start}.{end}.{before}".encode()).decode()


def _opened(cursor: object) -> tuple[int, int, int]:
    try:
        start, end, before = base64.urlsafe_b64decode(str(cursor)).decode().split(".")
        return int(start), int(end), int(before)
    except ValueError as error:
        raise Refusal(1201, "cursor is not valid") from error
