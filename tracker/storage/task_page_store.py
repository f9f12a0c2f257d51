"""Pages of tasks, newest first. The cost of a page depends on its content, not on the number of tasks.

Two indexes name every task by (its client,) its provider, kind, status and ID. If everything except the ID is given, an
index has the tasks in the order of their IDs. So a page is the newest part of a few ranges: one for each provider, kind
and status that the filter leaves open. A range is written as a comparison of rows in the order of the index's columns.
Only that index returns it without sorting, so a planner chooses it for any statistics of the data.

The model, the tag and the metadata of a task are its *labels*. Each label has an index in the order of the task IDs.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from itertools import cycle, islice
from typing import Any, Final

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Select, Text, bindparam, select, tuple_, union_all

from tracker.model.records import TaskFilter, TaskPage
from tracker.model.task import Status, Task, new_task_id
from tracker.storage import rows
from tracker.storage.engine.plans import aside
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.tables import TAGS, TASK_METADATA, TASKS

BY_CLIENT: Final = ("client", "provider", "kind", "status")
BY_KIND: Final = ("provider", "kind", "status")
# Values that sort before and after every ID and name in any collation.
START: Final = ""
END: Final = "z"
FOREVER: Final = 1 << 62
LEAST: Final = bytes(10)
MILLISECOND: Final = timedelta(milliseconds=1)
# The number of tasks that one step of a search reads. If not more pass the filter, their labels are compared at once.
FEW: Final = 500
# A page ends after so many steps, even if it is not full. So no filter reads all tasks in one transaction.
MOST_STEPS: Final = 40

Values = tuple[str, ...]
# The columns and the number of the ranges, and whether they are limited to a time.
Shape = tuple[Values, int, bool]
# Return the next IDs before one, and find the tasks among some IDs.
Read = Callable[[str], Sequence[str]]
Matching = Callable[[Sequence[str]], Select[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """What a search has found: all matching tasks down to the ID ``last``, or all if ``last`` is None."""

    found: list[Task]
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a filter. ``index`` are its columns and the task ID, ``values`` the values of its columns."""

    index: tuple[Column[str], ...]
    values: Values

    def among(self, ids: Sequence[str]) -> Select[Any]:
        """Find the tasks among ``ids`` that have the label."""
        *columns, task_id = self.index
        equal = [column == value for column, value in zip(columns, self.values, strict=True)]
        return select(task_id).where(*equal, task_id.in_(ids)).correlate(None)

    def newest(self, connection: Connection, window: Mapping[str, Any], most: int) -> Sequence[str]:
        """Return the IDs of the newest tasks in the window that have the label."""
        named = {_of_label(n): value for n, value in enumerate(self.values)}
        bounds = {name: window[name] for name in ("first", "last")}
        return connection.execute(_labeled_before(self.index), {**bounds, **named, "most": most}).scalars().all()


class TaskPageStore(TableStore):
    """Pages of the tasks that pass a filter, newest first."""

    @read_transaction
    def page(self, connection: Connection, wanted: TaskFilter, *, limit: int, cursor: str | None) -> TaskPage:
        """Return one page. The cursor is the last ID that the previous page searched.

        A page of a filter with labels may have fewer tasks than ``limit``, and still a next page.
        """
        part = _find(connection, wanted, limit=limit + 1, before=cursor, bounded=True)
        shown = part.found[:limit]
        further = shown[-1].id if len(part.found) > limit else part.last
        return TaskPage(tasks=tuple(shown), next_cursor=further)

    @read_transaction
    def numbered_page(self, connection: Connection, wanted: TaskFilter, *, offset: int, limit: int) -> Sequence[Task]:
        """Return ``limit`` tasks after the first ``offset``, for the list in the provider's format."""
        return _find(connection, wanted, limit=limit, offset=offset).found


def _find(
    connection: Connection,
    wanted: TaskFilter,
    *,
    limit: int,
    before: str | None = None,
    offset: int = 0,
    bounded: bool = False,
) -> Part:
    """Return at most ``limit`` tasks below the ID ``before``, after skipping ``offset``.

    A ``bounded`` search may return fewer, and the ID down to which it searched.
    """
    columns, ranges = _ranges(connection, wanted)
    if not ranges:
        return Part([])
    timed = wanted.created_after is not None or wanted.created_before is not None
    shape = (columns, len(ranges), timed)
    values = _window(wanted, before) | _named(columns, ranges)
    labels = _labels(wanted)
    if not labels:
        bounds = {"most": limit + offset, "skipped": offset, "limit": limit}
        return Part(_tasks(connection, _page(*shape), values | bounds))
    if columns:
        few = connection.execute(_newest(*shape).limit(FEW + 1), values | {"most": FEW + 1}).scalars().all()
        if len(few) <= FEW:
            return Part(_tasks(connection, _labeled(few, labels).limit(limit).offset(offset)))
    part = _search(connection, wanted, shape, values, limit + offset, bounded=bounded)
    return replace(part, found=part.found[offset:])


def _search(
    connection: Connection, wanted: TaskFilter, shape: Shape, window: Mapping[str, Any], most: int, *, bounded: bool
) -> Part:
    """Search two sets of tasks in turn: those with one of the labels, and those that pass the rest of the filter.

    The search ends as soon as one of them has the page. So a client with few tasks of its own never waits for a search
    through the many tasks of others that have the same label. A ``bounded`` search ends after some steps.
    """
    labels, conditions = _rarest_first(connection, _labels(wanted), window), _conditions(wanted)
    label, *others = labels
    some = FEW if conditions or others else most

    def with_label(last: str) -> Sequence[str]:
        return label.newest(connection, {**window, "last": last}, some)

    def in_ranges(last: str) -> Sequence[str]:
        ids = connection.execute(_newest_in_order(*shape), {**window, "last": last, "most": FEW})
        return ids.scalars().all()

    ways = [_walk(connection, with_label, partial(_labeled, labels=others, conditions=conditions), some, most, window)]
    if shape[0]:
        ways.append(_walk(connection, in_ranges, partial(_labeled, labels=labels), FEW, most, window))
    latest: deque[Part] = deque(maxlen=len(ways))
    for part in islice(map(next, cycle(ways)), MOST_STEPS if bounded else None):
        if part.last is None:
            return part
        latest.append(part)
    # Only a bounded search ends here. Return the part that came furthest.
    return min(latest, key=lambda each: each.last or START)


def _walk(
    connection: Connection, read: Read, matching: Matching, some: int, most: int, window: Mapping[str, Any]
) -> Iterator[Part]:
    """Search a set of tasks, newest first. Each step reads ``some`` IDs. Find at most ``most`` tasks."""
    found: list[Task] = []
    last = window["last"]
    while True:
        ids = read(last)
        found += _tasks(connection, matching(ids).limit(most - len(found)))
        if len(found) >= most or len(ids) < some:
            yield Part(found)
            return
        last = ids[-1]
        yield Part(found, last)


def _rarest_first(connection: Connection, labels: Sequence[Label], window: Mapping[str, Any]) -> Sequence[Label]:
    """Return the labels with a rare one first, if there is one: the search reads all tasks with the first label."""
    for label in labels if len(labels) > 1 else ():
        if len(label.newest(connection, window, FEW)) < FEW:
            return [label, *(other for other in labels if other is not label)]
    return labels


def _tasks(connection: Connection, statement: Select[Any], values: Mapping[str, Any] | None = None) -> list[Task]:
    return [rows.task_from_row(row) for row in connection.execute(statement, values).mappings()]


# ---- what to read


def _labels(wanted: TaskFilter) -> list[Label]:
    index = TASK_METADATA.c.key, TASK_METADATA.c.value, TASK_METADATA.c.task_id
    labels = [Label(index, entry) for entry in wanted.metadata.items()]
    if wanted.tag is not None:
        labels.append(Label((TAGS.c.tag, TAGS.c.task_id), (wanted.tag,)))
    if wanted.model is not None:
        labels.append(Label((TASKS.c.model, TASKS.c.id), (wanted.model,)))
    return labels


def _ranges(connection: Connection, wanted: TaskFilter) -> tuple[Values, Sequence[Values]]:
    """Return the index columns to read, and the values of each range. Without a filter, the one range has all tasks."""
    if (wanted.client, wanted.provider, wanted.kind, wanted.statuses) == (None, None, None, ()):
        return (), [()]
    columns, scope = (BY_KIND, ()) if wanted.client is None else (BY_CLIENT, (wanted.client,))
    kinds = _kinds(connection, wanted, columns, scope)
    return columns, [(*kind, status.value) for kind in kinds for status in wanted.statuses or Status]


def _kinds(connection: Connection, wanted: TaskFilter, columns: Values, scope: Values) -> Iterator[Values]:
    """Yield (the client,) provider and kind of all existing tasks. Each costs one index lookup."""
    if wanted.provider is not None and wanted.kind is not None:
        yield (*scope, wanted.provider, wanted.kind)
        return
    fixed = scope if wanted.provider is None else (*scope, wanted.provider)
    at = (*fixed, *[START] * (len(columns) - len(fixed)))
    while (found := connection.execute(_following(columns), dict(zip(columns, at, strict=True))).first()) is not None:
        *kind, _ = found
        if tuple(kind[: len(fixed)]) != fixed:
            return
        if wanted.kind in {None, kind[-1]}:
            yield tuple(kind)
        at = (*kind, END)


def _window(wanted: TaskFilter, before: str | None) -> dict[str, Any]:
    """Return the bounds of IDs and times. IDs begin with the millisecond of their creation."""
    after, until = wanted.created_after, wanted.created_before
    last = END if until is None else new_task_id(until + MILLISECOND, LEAST)
    return {
        "first": START if after is None else new_task_id(after, LEAST),
        "last": last if before is None else min(last, before),
        "after": 0 if after is None else rows.stamp(after),
        "until": FOREVER if until is None else rows.stamp(until),
    }


def _named(columns: Values, ranges: Sequence[Values]) -> dict[str, Any]:
    return {_in_range(name, n): value for n, one in enumerate(ranges) for name, value in zip(columns, one, strict=True)}


# ---- statements


@lru_cache
def _page(columns: Values, count: int, timed: bool) -> Select[Any]:  # noqa: FBT001 - a cache's key
    newest = _newest(columns, count, timed).subquery()
    cut = select(newest.c.id).order_by(newest.c.id.desc()).limit(_number("limit")).offset(_number("skipped"))
    return select(TASKS).where(TASKS.c.id.in_(cut)).order_by(TASKS.c.id.desc())


@lru_cache
def _newest_in_order(columns: Values, count: int, timed: bool) -> Select[Any]:  # noqa: FBT001 - a cache's key
    """Find the IDs of the ``most`` newest tasks in all ranges together."""
    newest = _newest(columns, count, timed).subquery()
    return select(newest.c.id).order_by(newest.c.id.desc()).limit(_number("most"))


@lru_cache
def _newest(columns: Values, count: int, timed: bool) -> Select[Any]:  # noqa: FBT001 - a cache's key
    """Find the IDs of the newest tasks in each of ``count`` ranges, ``most`` of each."""
    index = [TASKS.c[name] for name in (*columns, "id")]
    parts = []
    for n in range(count):
        named = [bindparam(_in_range(name, n), type_=Text) for name in columns]
        within = _between(index, named)
        if timed:
            # An extra condition: an ID has the time of its creation only to the millisecond.
            created_at = aside(TASKS.c.created_at)
            within += [created_at >= _number("after"), created_at < _number("until")]
        part = select(TASKS.c.id).where(*within).order_by(*(column.desc() for column in index))
        parts.append(select(part.limit(_number("most")).subquery().c.id))
    ids = union_all(*parts).subquery()
    return select(ids.c.id)


@lru_cache
def _labeled_before(index: tuple[Column[str], ...]) -> Select[Any]:
    """Find the IDs of the newest tasks that have a label."""
    within = _between(index, [bindparam(_of_label(n), type_=Text) for n in range(len(index) - 1)])
    # The index of the models has no rows without a model. The comparison of rows alone does not show that none matches.
    within.append(index[0].is_not(None))
    return select(index[-1]).where(*within).order_by(*(each.desc() for each in index)).limit(_number("most"))


def _labeled(
    ids: Sequence[str], labels: Sequence[Label], conditions: Sequence[ColumnElement[bool]] = ()
) -> Select[Any]:
    """Find the tasks among ``ids`` that have all labels and pass the conditions."""
    having = [TASKS.c.id.in_(label.among(ids)) for label in labels]
    return select(TASKS).where(TASKS.c.id.in_(ids), *having, *conditions).order_by(TASKS.c.id.desc())


def _conditions(wanted: TaskFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of the filter except the labels."""
    named = {"client": wanted.client, "provider": wanted.provider, "kind": wanted.kind}
    conditions = [aside(TASKS.c[name]) == value for name, value in named.items() if value is not None]
    if wanted.statuses:
        conditions.append(aside(TASKS.c.status).in_([status.value for status in wanted.statuses]))
    if wanted.created_after is not None:
        conditions.append(TASKS.c.created_at >= rows.stamp(wanted.created_after))
    if wanted.created_before is not None:
        conditions.append(TASKS.c.created_at < rows.stamp(wanted.created_before))
    return conditions


@lru_cache
def _following(columns: Values) -> Select[Any]:
    """Find the first values of an index after the given ones."""
    index = [TASKS.c[name] for name in columns]
    behind = tuple_(*index) > tuple_(*(bindparam(name, type_=Text) for name in columns))
    return select(*index).where(behind).order_by(*index).limit(1)


def _between(index: Sequence[ColumnElement[Any]], named: Sequence[ColumnElement[str]]) -> list[ColumnElement[bool]]:
    """Return the conditions that the first columns of an index are as ``named``, and the ID is in the window."""
    first, last = bindparam("first", type_=Text), bindparam("last", type_=Text)
    return [tuple_(*index) >= tuple_(*named, first), tuple_(*index) < tuple_(*named, last)]


def _in_range(name: str, number: int) -> str:
    return f"{name}_in_range_{number}"


def _of_label(number: int) -> str:
    return f"label_{number}"


def _number(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=BigInteger)
