"""Shared growth suite for every store: the cost of a query depends on its answer, not on the finished tasks.

Work is counted, not timed: the steps of SQLite's machine, the pages that PostgreSQL reads. Each question is put to two
stores that differ only in how many tasks are over and done with: one has eight times as many.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sized
from datetime import timedelta
from functools import partial
from typing import Any

from tests.suites.store_case import changing, looking
from tests.support.builders import NOW, OMNI, a_task, an_entry, an_event, an_orphan, writing
from tracker.model.changes import (
    Key,
    by_external_id,
    by_id,
    by_idempotency_key,
    by_provider_id,
    by_sent_id,
    by_unanswered,
)
from tracker.model.records import TaskFilter
from tracker.model.task import Source, Status, Task
from tracker.storage.store import Store

LITTLE, MUCH = 1_200, 9_600
AROUND = 40
PAGE = 20
TOGETHER = 400
# How much more work there may be where there is eight times as much: a level more in each tree that is gone through.
ALLOWED = 2.0
MINUTE = timedelta(minutes=1)
VIDEO = "videos/omni-video"
OPEN = (Status.PENDING, Status.SUBMITTED, Status.PROCESSING)
LISTED = tuple(status for status in Status if status is not Status.REJECTED)
# The distance of the queried tasks from the end of the past.
BACK = 300

Question = Callable[[Store], Awaitable[Any]]
# Put a question, and give its answer and the work that it was.
Measure = Callable[[Store, Question], Awaitable[tuple[Any, int]]]


def over(number: int, **changes: Any) -> Task:
    """Make a task that ended."""
    begun = a_task(number).created_at
    ended = begun + timedelta(seconds=30)
    values: dict[str, Any] = {
        "status": Status.FAILED if number % 10 == 0 else Status.SUCCEEDED,
        "status_source": Source.CALLBACK,
        "provider_task_id": f"theirs-{number:06}",
        "external_id": f"order-{number:06}",
        "idempotency_key": f"key-{number:06}",
        "submitted_at": begun,
        "finished_at": ended,
        "last_observed_at": ended,
        "answered_at": begun,
        "tags": (f"job-{number // PAGE}", *(["nightly"] if number % 2 else [])),
        "model": "usual",
        "metadata": {"job": f"job-{number // PAGE}", **({"run": "nightly"} if number % 2 else {})},
    }
    return a_task(number, **(values | changes))


def unsettled(number: int) -> Task:
    """Make a task that is open, and due."""
    return a_task(
        number,
        status=OPEN[number % 3],
        attempts=1,
        next_poll_at=NOW - timedelta(seconds=number % 10),
        tags=("nightly",),
        model="usual",
        metadata={"run": "nightly"},
        request_hash=f"hash-{number}",
    )


def grown(count: int) -> Iterator[Task]:
    """Yield ``count`` finished tasks, with a few relevant tasks before and after them.

    ``retired`` values occur often, but in no recent task: a dense value can be rare in the queried range.
    """
    rare: dict[str, Any] = {
        "client": "lab",
        "kind": VIDEO,
        "provider": "other",
        "tags": ("rare",),
        "status": Status.REJECTED,
    }
    rare |= {"model": "odd", "metadata": {"run": "rare"}}
    for number in range(1, AROUND + 1):
        yield over(number, **rare) if number % 2 else unsettled(number)
    for number in range(AROUND + 1, AROUND + count + 1):
        retired = number < AROUND + count // 3 and number % 2 == 0
        yield over(number, **({"client": "retired", "kind": "audio/old"} if retired else {}))
    for number in range(AROUND + count + 1, AROUND + count + AROUND + 1):
        yield unsettled(number)


async def fill(url: str, count: int) -> None:
    store = Store(url)
    await store.open()
    tasks = list(grown(count))
    for start in range(0, len(tasks), TOGETHER):
        await store.apply([_with_all_that_belongs_to_it(task) for task in tasks[start : start + TOGETHER]])
    await store.close()


def _with_all_that_belongs_to_it(task: Task) -> Any:
    due = None if task.finished_at else NOW
    orphan = an_orphan(provider_task_id=task.id, next_poll_at=due, last_at=task.created_at)
    return writing(
        task,
        entries=(an_entry(task, "reported"),),
        events=(an_event(task, 2),),
        orphan=orphan if due or task.status is Status.FAILED else None,
    )


def filters(known: Task) -> Mapping[str, TaskFilter]:
    """Name every way to narrow a page; ``known`` is a task in the past."""
    around = known.created_at
    return {
        "everything": TaskFilter(),
        "what succeeded": TaskFilter(statuses=(Status.SUCCEEDED,)),
        "what failed": TaskFilter(statuses=(Status.FAILED,)),
        "what was rejected": TaskFilter(statuses=(Status.REJECTED,)),
        "what is open": TaskFilter(statuses=OPEN),
        "a client's": TaskFilter(client="studio"),
        "a client's with little": TaskFilter(client="lab"),
        "a client's with nothing lately": TaskFilter(client="retired"),
        "a client's with nothing": TaskFilter(client="nobody"),
        "a provider's": TaskFilter(provider="kling"),
        "a provider's with little": TaskFilter(provider="other"),
        "a kind": TaskFilter(kind=OMNI),
        "a kind with little": TaskFilter(kind=VIDEO),
        "a kind with nothing lately": TaskFilter(kind="audio/old"),
        "a tag": TaskFilter(tag="nightly"),
        "a job's tag": TaskFilter(tag="job-10"),
        "a tag with little": TaskFilter(tag="rare"),
        "since a time": TaskFilter(created_after=around),
        "before a time": TaskFilter(created_before=around),
        "a short time": TaskFilter(created_after=around, created_before=around + MINUTE),
        "a client's failures": TaskFilter(client="studio", statuses=(Status.FAILED,)),
        "a client's open ones": TaskFilter(client="studio", statuses=OPEN),
        "a client's kind": TaskFilter(client="studio", kind=OMNI),
        "a client's kind with little": TaskFilter(client="lab", kind=VIDEO),
        "a client's short time": TaskFilter(client="retired", created_after=around - MINUTE, created_before=around),
        "a kind's failures": TaskFilter(kind=OMNI, statuses=(Status.FAILED,)),
        "a kind's open ones": TaskFilter(kind=OMNI, statuses=OPEN),
        "failures of a kind with little": TaskFilter(kind=VIDEO, statuses=(Status.FAILED,)),
        "what succeeded under a tag": TaskFilter(tag="nightly", statuses=(Status.SUCCEEDED,)),
        "what is open under a tag": TaskFilter(tag="nightly", statuses=OPEN),
        "a tag before a time": TaskFilter(tag="nightly", created_before=around),
        "a client's tag": TaskFilter(client="studio", tag="nightly"),
        "a client's job": TaskFilter(client="studio", tag=known.tags[0]),
        "a common tag of a client with little": TaskFilter(client="lab", tag="nightly"),
        "a model": TaskFilter(model="usual"),
        "a model with little": TaskFilter(model="odd"),
        "a client's model": TaskFilter(client="studio", model="usual"),
        "what is open of a model": TaskFilter(model="usual", statuses=OPEN),
        "a common model of a client with little": TaskFilter(client="lab", model="usual"),
        "metadata": TaskFilter(metadata={"run": "nightly"}),
        "metadata of a job": TaskFilter(metadata={"job": "job-10"}),
        "metadata with little": TaskFilter(metadata={"run": "rare"}),
        "a client's metadata": TaskFilter(client="studio", metadata={"run": "nightly"}),
        "a client's job by metadata": TaskFilter(client="studio", metadata={"job": known.metadata["job"]}),
        "common metadata of a client with little": TaskFilter(client="lab", metadata={"run": "nightly"}),
        "a job's part": TaskFilter(metadata={"run": "nightly", "job": known.metadata["job"]}, model="usual"),
        "the gateway's list": TaskFilter(client="studio", provider="kling", kind=OMNI, statuses=LISTED),
    }


async def _page(store: Store, task_filter: TaskFilter, cursor: str | None) -> Any:
    return (await store.task_pages.page(task_filter, limit=PAGE, cursor=cursor)).tasks


def _looked_up(key: Callable[[int], Key], many: int) -> Question:
    """Look rows up as the write path does, by ``many`` names at once."""
    keys = [key(AROUND + n) for n in range(1, many + 1)]
    return lambda store: store.apply([looking(*keys)])


def questions(count: int) -> Iterator[tuple[str, Question]]:
    """Yield every question whose work must not follow from ``count``, how much is over."""
    known = over(AROUND + count - BACK + 1)
    named_filters = filters(known)
    for name, task_filter in named_filters.items():
        yield f"page: {name}", partial(_page, task_filter=task_filter, cursor=None)
        yield f"page further on: {name}", partial(_page, task_filter=task_filter, cursor=known.id)
    yield (
        "numbered page",
        lambda store: store.task_pages.numbered_page(named_filters["the gateway's list"], offset=PAGE, limit=PAGE),
    )
    for name, ref in {
        "our id": known.id,
        "the provider's id": known.provider_task_id,
        "the client's id": known.external_id,
        "an id that nobody has": "nobody",
    }.items():
        assert ref is not None
        yield f"find by {name}", partial(_found, ref=ref, client=None)
        yield f"find one's own by {name}", partial(_found, ref=ref, client="studio", provider="kling", kind=OMNI)
    names: Mapping[str, Callable[[int], Key]] = {
        "our id": lambda n: by_id(a_task(n).id),
        "the provider's id": lambda n: by_provider_id("kling", "default", f"theirs-{n:06}"),
        "the id that was sent": lambda n: by_sent_id("kling", "default", a_task(n).id),
        "the client's id": lambda n: by_external_id("studio", f"order-{n:06}"),
        "the idempotency key": lambda n: by_idempotency_key("studio", f"key-{n:06}"),
        "an unanswered body": lambda n: by_unanswered("studio", f"hash-{n}"),
    }
    for name, key in names.items():
        for many in (1, 64):
            yield f"load {many} by {name}", _looked_up(key, many)
    yield from _loops(known)


def _loops(known: Task) -> Iterator[tuple[str, Question]]:
    """Yield the questions of the loops, the history, and one end of a task."""
    now, zero, around = NOW, timedelta(), known.created_at
    yield "history", lambda store: store.tasks.history(known.id)
    yield "next due", lambda store: store.due_tasks.next_due()
    yield "release", lambda store: store.due_tasks.release(owner="another", margin=zero)
    yield "claim", lambda store: store.due_tasks.acquire(now=now, limit=PAGE, owner="me", lease=zero)
    yield "unresolved", lambda store: store.tasks.unresolved(provider="kling", kind=OMNI, limit=PAGE)
    yield "latest accepted", lambda store: store.tasks.latest_accepted(provider="kling", account="default", kind=OMNI)
    yield "sent id", lambda store: store.tasks.sent_id_used("kling", "default", "nobody's")
    yield "newest completions", lambda store: store.completions(after=None, until=around, limit=PAGE)
    yield (
        "following completions",
        lambda store: store.completions(after=(around, known.id), until=around + MINUTE, limit=PAGE),
    )
    yield "whether anything is due", lambda store: store.due_tasks.is_due(now, lease=MINUTE)
    yield "bringing forward", lambda store: store.due_tasks.bring_forward(now=around, furthest=MINUTE, expired=MINUTE)
    yield "due orphans", lambda store: store.orphans.due(now=now, limit=PAGE)
    yield "orphans", lambda store: store.orphans.latest(limit=PAGE)
    yield "a change", lambda store: store.apply([changing(a_task(2), status=Status.PROCESSING, last_observed_at=now)])
    yield "deletion", lambda store: store.retention.delete_old(until=around, now=now, after=None, limit=PAGE)


async def _found(store: Store, **named: Any) -> Task | None:
    return await store.tasks.find_ref(**named)


def size(answer: Any) -> int:
    return len(answer) if isinstance(answer, Sized) else int(answer is not None)


async def dear(little: Store, much: Store, measure: Measure) -> dict[str, tuple[int, int]]:
    """Return the questions that are more work in the greater store, and how much in each."""
    found = {}
    for (name, of_little), (_, of_much) in zip(questions(LITTLE), questions(MUCH), strict=True):
        first, less = await measure(little, of_little)
        second, more = await measure(much, of_much)
        assert size(first) == size(second), name
        if more > less * ALLOWED:
            found[name] = (less, more)
    return found
