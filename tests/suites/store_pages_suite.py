"""Shared suite for task pages in every store: filters and cursors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from tests.properties.observations import observed_in_turn
from tests.support.builders import NOW, OMNI, a_report, a_task, by_poll, writing
from tracker.model.records import TaskFilter
from tracker.model.task import Status, Task, Trust
from tracker.service.arguments import METADATA_ENTRIES, METADATA_KEY_LENGTH, METADATA_VALUE_LENGTH
from tracker.storage.store import Store
from tracker.storage.task_page_store import FEW, Label

KINDS = (OMNI, "videos/omni-video", "audio/speech")
OPEN = (Status.PENDING, Status.SUBMITTED, Status.PROCESSING)


def varied(number: int) -> Task:
    """Return tasks that differ in every filter field, each with its own period."""
    return a_task(
        number,
        client=("studio", "shop")[number % 2],
        provider=("kling", "other", "kling")[number % 3],
        kind=KINDS[number % 4 % 3],
        status=list(Status)[number % 7],
        model=("fast", "", None)[number % 3],
        tags=("red", "big")[: number % 5 % 3],
        metadata=({}, {"order": "17"}, {"order": "17", "stage": "last"})[number % 7 % 3],
    )


def narrowed(tasks: Sequence[Task]) -> Iterator[TaskFilter]:
    middle, late = tasks[len(tasks) // 2].created_at, tasks[-9].created_at
    times = [(None, None), (middle, None), (None, middle), (middle, late)]
    statuses_of: list[tuple[Status, ...]] = [(), (Status.FAILED,), OPEN]
    labels: list[dict[str, Any]] = [
        {},
        {"tag": "red"},
        {"model": "fast"},
        {"metadata": {"order": "17"}},
        {"metadata": {"order": "17", "stage": "last"}, "tag": "red"},
        {"metadata": {"order": "17"}, "model": "fast", "tag": "red"},
    ]
    ways = product((None, "studio"), (None, "kling"), (None, KINDS[1], "nothing"), statuses_of, labels)
    for client, provider, kind, statuses, labeled in ways:
        for after, before in times:
            yield TaskFilter(
                client=client,
                provider=provider,
                kind=kind,
                statuses=statuses,
                **labeled,
                created_after=after,
                created_before=before,
            )


def matches_filter(task: Task, criteria: TaskFilter) -> bool:
    named = all(
        value is None or getattr(task, name) == value
        for name, value in (
            ("client", criteria.client),
            ("provider", criteria.provider),
            ("kind", criteria.kind),
            ("model", criteria.model),
        )
    )
    matches = task.status in (criteria.statuses or Status) and (criteria.tag is None or criteria.tag in task.tags)
    matches = matches and criteria.metadata.items() <= task.metadata.items()
    since = criteria.created_after is None or task.created_at >= criteria.created_after
    return (
        named and matches and since and (criteria.created_before is None or task.created_at < criteria.created_before)
    )


async def walked(store: Store, task_filter: TaskFilter, *, limit: int, full: bool = True) -> list[str]:
    """Follow the pages to the end. All except the last are ``full``."""
    shown: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.task_pages.page(task_filter, limit=limit, cursor=cursor)
        shown += [task.id for task in page.tasks]
        cursor = page.next_cursor
        if cursor is None:
            return shown
        assert len(page.tasks) == limit or not full


class StorePages:
    """Pages, as sentences."""

    async def test_pages_are_newest_first_without_gaps(self, store: Store) -> None:
        await store.apply([writing(a_task(n)) for n in range(1, 8)])
        shown, cursor, sizes = [], None, []
        while True:
            page = await store.task_pages.page(TaskFilter(), limit=3, cursor=cursor)
            shown += [task.id for task in page.tasks]
            sizes.append(len(page.tasks))
            cursor = page.next_cursor
            if cursor is None:
                break
            await store.apply([writing(a_task(100 + len(sizes)))])
        assert shown == [a_task(n).id for n in range(7, 0, -1)]
        assert sizes == [3, 3, 1]

    async def test_page_that_fits_exactly_has_no_next(self, store: Store) -> None:
        await store.apply([writing(a_task(n)) for n in (1, 2)])
        assert (await store.task_pages.page(TaskFilter(), limit=2, cursor=None)).next_cursor is None

    async def test_numbered_task_pages_are_newest_first(self, store: Store) -> None:
        await store.apply([writing(a_task(n)) for n in range(1, 6)])
        page = await store.task_pages.numbered_page(TaskFilter(), offset=2, limit=2)
        assert [task.id for task in page] == [a_task(3).id, a_task(2).id]

    @pytest.mark.parametrize(
        ("task_filter", "expected"),
        [
            (TaskFilter(), [1, 2, 3]),
            (TaskFilter(client="studio"), [1, 2]),
            (TaskFilter(client="nobody"), []),
            (TaskFilter(statuses=(Status.SUBMITTED,)), [2]),
            (TaskFilter(statuses=(Status.SUBMITTED, Status.FAILED)), [2, 3]),
            (TaskFilter(provider="other"), [3]),
            (TaskFilter(kind="videos/omni-video"), [2]),
            (TaskFilter(tag="red"), [1, 3]),
            (TaskFilter(tag="re"), []),
            (TaskFilter(created_after=NOW + timedelta(seconds=1)), [2, 3]),
            (TaskFilter(created_before=NOW + timedelta(seconds=1)), [1]),
            (TaskFilter(model="fast"), [1, 2]),
            (TaskFilter(model="fast", tag="red"), [1]),
            (TaskFilter(model="fas"), []),
            (TaskFilter(metadata={"order": "17"}), [1, 3]),
            (TaskFilter(metadata={"order": "1"}), []),
            (TaskFilter(metadata={"17": "order"}), []),
            (TaskFilter(metadata={"order": "17", "stage": "last"}), [3]),
            (TaskFilter(metadata={"order": "17", "stage": "last"}, client="studio"), []),
            (TaskFilter(metadata={"order": "17"}, tag="red", model="fast"), [1]),
            (TaskFilter(client="studio", tag="red"), [1]),
        ],
    )
    async def test_filter_narrows_a_page(self, store: Store, task_filter: TaskFilter, expected: Sequence[int]) -> None:
        tasks = [
            a_task(1, tags=("red", "big"), model="fast", metadata={"order": "17"}),
            a_task(2, status=Status.SUBMITTED, kind="videos/omni-video", model="fast"),
            observed_in_turn(
                a_task(
                    3,
                    client="other",
                    provider="other",
                    tags=("red",),
                    metadata={"order": "17", "stage": "last"},
                    provider_task_id="p",
                ),
                [by_poll(a_report(Status.FAILED, provider_task_id="p"))],
                Trust.TOKEN,
            ),
        ]
        await store.apply([writing(task) for task in tasks])
        page = await store.task_pages.page(task_filter, limit=10, cursor=None)
        assert sorted(task.id for task in page.tasks) == [a_task(n).id for n in expected]

    async def test_largest_metadata_is_recorded_and_found(self, store: Store) -> None:
        """Its characters take four bytes each. An index entry of PostgreSQL has at most 2,704 bytes."""
        keys = [f"{number:02}".ljust(METADATA_KEY_LENGTH, "\U0001d518") for number in range(METADATA_ENTRIES)]
        values = [chr(0x1D400 + number) * METADATA_VALUE_LENGTH for number in range(METADATA_ENTRIES)]
        task = a_task(metadata=dict(zip(keys, values, strict=True)))
        await store.apply([writing(task)])

        page = await store.task_pages.page(TaskFilter(metadata={keys[7]: values[7]}), limit=2, cursor=None)

        assert page.tasks == (task,)

    async def test_changed_labels_replace_the_earlier_ones(self, store: Store) -> None:
        before = a_task(1, tags=("red", "big"), metadata={"order": "17", "stage": "first"})
        await store.apply([writing(before), writing(a_task(2, metadata={"order": "17"}))])

        await store.apply([writing(replace(before, tags=("red",), metadata={"stage": "last"}))])

        for task_filter, expected in (
            (TaskFilter(tag="red"), [1]),
            (TaskFilter(tag="big"), []),
            (TaskFilter(metadata={"order": "17"}), [2]),
            (TaskFilter(metadata={"stage": "last"}), [1]),
        ):
            assert await walked(store, task_filter, limit=9) == [a_task(n).id for n in expected]

    async def test_filters_match_a_full_scan(self, store: Store) -> None:
        tasks = [varied(number) for number in range(1, 49)]
        await store.apply([writing(task) for task in tasks])
        for task_filter in narrowed(tasks):
            expected = [task.id for task in reversed(tasks) if matches_filter(task, task_filter)]
            assert await walked(store, task_filter, limit=9) == expected, task_filter

    async def test_popular_label_of_others_is_not_searched(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client has none of the many tasks with the label, and a few more of its own than one step reads."""
        many = 4 * FEW
        tasks = [a_task(n, client="other", model="red", metadata={"color": "red"}) for n in range(1, many)]
        tasks += [a_task(n, client="studio") for n in range(many, many + FEW + 10)]
        await store.apply([writing(task) for task in tasks])
        reads, newest = [0], Label.newest

        def counted(*arguments: Any) -> Sequence[str]:
            reads[0] += 1
            return newest(*arguments)

        monkeypatch.setattr(Label, "newest", counted)

        for task_filter in (
            TaskFilter(client="studio", model="red"),
            TaskFilter(client="studio", metadata={"color": "red"}),
        ):
            page = await store.task_pages.page(task_filter, limit=9, cursor=None)
            assert page.tasks == ()
        assert reads[0] <= 4

    async def test_search_for_labels_that_never_meet_ends_and_goes_on(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page reads a bounded number of tasks. Its cursor leads to the rest, so nothing is skipped."""
        monkeypatch.setattr("tracker.storage.task_page_store.FEW", 5)
        monkeypatch.setattr("tracker.storage.task_page_store.MOST_STEPS", 4)
        both = {10, 61}
        tasks = [
            a_task(n, client="studio", **{name: "red" for name in ("model",) if n in both or n % 2})
            for n in range(1, 100)
        ]
        tasks = [replace(task, tags=("red",)) if n in both or n % 2 == 0 else task for n, task in enumerate(tasks, 1)]
        await store.apply([writing(task) for task in tasks])
        for task_filter in (TaskFilter(model="red", tag="red"), TaskFilter(client="studio", model="red", tag="red")):
            found, sizes, cursor = [], [], None
            while True:
                page = await store.task_pages.page(task_filter, limit=9, cursor=cursor)
                found += [task.id for task in page.tasks]
                sizes.append(len(page.tasks))
                if (cursor := page.next_cursor) is None:
                    break
            assert found == [a_task(n).id for n in sorted(both, reverse=True)], task_filter
            assert 0 in sizes
            assert len(sizes) > 2
            numbered = await store.task_pages.numbered_page(task_filter, offset=0, limit=9)
            assert [task.id for task in numbered] == found

    async def test_filters_match_a_full_scan_in_short_steps(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracker.storage.task_page_store.FEW", 2)
        monkeypatch.setattr("tracker.storage.task_page_store.MOST_STEPS", 2)
        tasks = [varied(number) for number in range(1, 25)]
        await store.apply([writing(task) for task in tasks])
        for task_filter in narrowed(tasks):
            expected = [task.id for task in reversed(tasks) if matches_filter(task, task_filter)]
            assert await walked(store, task_filter, limit=3, full=False) == expected, task_filter

    async def test_time_filter_is_exact_to_the_microsecond(self, store: Store) -> None:
        first, second = (a_task(n, created_at=NOW + n * timedelta(microseconds=1)) for n in (1, 2))
        assert first.id[:12] == a_task(1).id[:12]
        second = replace(second, id=first.id[:12] + second.id[12:])
        await store.apply([writing(first), writing(second)])
        since = TaskFilter(created_after=second.created_at)
        before = TaskFilter(created_before=second.created_at, client="studio")
        assert await walked(store, since, limit=1) == [second.id]
        assert await walked(store, before, limit=1) == [first.id]
        assert await walked(store, replace(since, tag="a"), limit=1) == []

    @pytest.mark.parametrize("label", ["tag", "model", "metadata", "several"])
    async def test_label_scan_continues_until_the_page_is_full(self, store: Store, label: str) -> None:
        """More tasks have the label, and more are the client's, than are looked at in one go."""
        many = 2 * FEW + 10
        red: dict[str, Any] = {"tags": ("red",), "model": "red", "metadata": {"color": "red", "size": "big"}}
        tasks = [a_task(n, client="studio" if n < many // 2 else "other", **red) for n in range(1, many)]
        tasks += [a_task(n, client="studio", tags=("blue",)) for n in range(many, many + 3)]
        await store.apply([writing(task) for task in tasks])
        filters: dict[str, dict[str, Any]] = {
            "tag": {"tag": "red"},
            "model": {"model": "red"},
            "metadata": {"metadata": {"color": "red"}},
            "several": {"metadata": {"size": "big", "color": "red"}, "tag": "red"},
        }
        task_filter = TaskFilter(client="studio", **filters[label])
        expected = [task.id for task in reversed(tasks) if matches_filter(task, task_filter)]
        assert await walked(store, task_filter, limit=200) == expected
        numbered = await store.task_pages.numbered_page(task_filter, offset=100, limit=10)
        assert [task.id for task in numbered] == expected[100:110]
