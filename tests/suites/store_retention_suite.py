"""Shared suite for the deletion of old tasks in every store."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.suites.store_case import alarm, looking, read
from tests.support.builders import NOW, a_sink, a_task, an_entry, an_event, an_orphan, writing
from tracker.model.changes import by_external_id, by_idempotency_key
from tracker.model.records import Action, AuditEntry, TaskFilter
from tracker.model.sinks import Failure, ProgressUpdate
from tracker.model.task import Source, Status, Task
from tracker.storage.retention_store import REMEMBERED, Deleted
from tracker.storage.store import Store

DAY = timedelta(days=1)
LATER = NOW + 30 * DAY
BELONGINGS = ("task_tags", "task_metadata", "submissions", "observations", "events")


def over(number: int = 1, **changes: Any) -> Task:
    """Make a task that ended at NOW, with nothing left to ask."""
    values: dict[str, Any] = {
        "status": Status.SUCCEEDED,
        "finished_at": NOW,
        "provider_task_id": f"theirs-{number}",
        "tags": ("a", "b"),
        "metadata": {"a": "b"},
    }
    return a_task(number, **(values | changes))


def whole(task: Task) -> Any:
    """Write a task with every kind of row that can belong to it."""
    return writing(
        task, entries=(an_entry(task, "one"), an_entry(task, "two")), events=(an_event(task, 2),), submission=b"body"
    )


async def delete_all(store: Store, *, until: datetime = NOW, now: datetime = LATER, limit: int = 10) -> list[Deleted]:
    """Run deletion steps until all tasks that finished by ``until`` were checked."""
    steps = [await store.retention.delete_old(until=until, now=now, after=None, limit=limit)]
    while steps[-1].after is not None:
        steps.append(await store.retention.delete_old(until=until, now=now, after=steps[-1].after, limit=limit))
    return steps


async def left(store: Store) -> list[str]:
    page = await store.task_pages.page(TaskFilter(), limit=100, cursor=None)
    return sorted(task.id for task in page.tasks)


class StoreRetention:
    """Test which rows are deleted, kept and remembered."""

    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.REJECTED, Status.EXPIRED])
    async def test_settled_old_task_is_deleted(self, store: Store, status: Status) -> None:
        await store.apply([whole(over(status=status))])
        assert [step.tasks for step in await delete_all(store)] == [1]
        assert await left(store) == []

    @pytest.mark.parametrize(
        "kept",
        [
            a_task(1),
            a_task(1, status=Status.PROCESSING, submitted_at=NOW - 90 * DAY),
            over(finished_at=NOW + timedelta(microseconds=1)),
            over(status=Status.EXPIRED, next_poll_at=NOW),
            over(next_poll_at=NOW),
            over(status=Status.PROCESSING),
        ],
        ids=["pending", "open for long", "younger", "expired and asked about", "without its files yet", "open again"],
    )
    async def test_unfinished_task_is_kept(self, store: Store, kept: Task) -> None:
        await store.apply([whole(kept), whole(over(2))])
        assert [step.tasks for step in await delete_all(store)] == [1]
        assert await left(store) == [kept.id]
        assert len(await store.tasks.history(kept.id)) == 2

    async def test_deletion_removes_only_rows_of_the_task(self, store: Store, url: str) -> None:
        stays = over(2, finished_at=LATER)
        await store.apply([whole(over(1)), whole(stays)])
        await delete_all(store)
        for table in BELONGINGS:
            assert {task_id for (task_id,) in read(url, f"SELECT task_id FROM {table}")} == {stays.id}, table

    async def test_deletion_frees_the_client_ids(self, store: Store) -> None:
        names = {"external_id": "order-1", "idempotency_key": "key-1"}
        await store.apply([whole(over(1, **names))])
        await delete_all(store)
        keys = looking(by_external_id("studio", "order-1"), by_idempotency_key("studio", "key-1"))
        assert await store.apply([keys]) == [[None, None]]
        await store.apply([whole(over(2, **names))])
        assert await left(store) == [a_task(2).id]

    async def test_deletion_step_continues_after_the_last(self, store: Store) -> None:
        """A step also continues after tasks that must stay, for any number of them."""
        tasks = [over(n, finished_at=NOW + n * DAY, next_poll_at=NOW if n <= 4 else None) for n in range(1, 8)]
        await store.apply([whole(task) for task in tasks])
        steps = await delete_all(store, until=LATER, limit=3)
        assert [(step.tasks, step.after and step.after[1]) for step in steps] == [
            (0, tasks[2].id),
            (2, tasks[5].id),
            (1, None),
        ]
        assert await left(store) == [task.id for task in tasks[:4]]

    async def test_deletion_includes_tasks_with_equal_end_times(self, store: Store) -> None:
        await store.apply([whole(over(n)) for n in range(1, 6)])
        assert [step.tasks for step in await delete_all(store, limit=2)] == [2, 2, 1]

    async def test_concurrent_deletions_share_the_work(self, store: Store, url: str) -> None:
        tasks = [over(n, finished_at=NOW - n * DAY) for n in range(1, 61)]
        await store.apply([whole(task) for task in tasks])
        other = Store(url)
        await other.open()
        both = await asyncio.gather(*(delete_all(each) for each in (store, other)))
        await other.close()
        assert sum(step.tasks for steps in both for step in steps) == 60
        assert await left(store) == []

    async def test_deleted_event_number_is_not_reused(self, store: Store, url: str) -> None:
        """A reader that continues after its last cursor would never see the new event."""
        await store.apply([whole(over(1))])
        [(last,)] = read(url, "SELECT id FROM events")
        await delete_all(store)
        await store.apply([whole(a_task(2))])
        [(reading_events,)] = read(url, "SELECT id FROM events")
        assert reading_events > last

    async def test_deleted_task_is_not_counted(self, store: Store) -> None:
        fields = {"status_source": Source.CALLBACK, "client": "lab"}
        await store.apply([whole(over(1, **fields)), whole(over(2, **fields, finished_at=LATER)), whole(a_task(3))])
        await delete_all(store)
        for client, statuses in ((None, {"succeeded": 1, "pending": 1}), ("lab", {"succeeded": 1})):
            stats = await store.stats(client=client, now=NOW)
            assert (stats.by_status, stats.finished_by_source) == (statuses, {"callback": 1})

    # ---- remembered IDs

    async def test_deleted_provider_id_is_kept_for_a_while(self, store: Store) -> None:
        await store.apply([whole(over())])
        assert await store.retention.deleted_task("kling", "default", "theirs-1") is None
        await delete_all(store)
        assert await store.retention.deleted_task("kling", "default", "theirs-1") == a_task(1).id
        assert await store.retention.deleted_task("kling", "another", "theirs-1") is None
        assert await store.retention.deleted_task("other", "default", "theirs-1") is None
        almost = LATER + REMEMBERED - timedelta(microseconds=1)
        assert [step.tombstones for step in await delete_all(store, now=almost)] == [0]
        assert [step.tombstones for step in await delete_all(store, now=LATER + REMEMBERED)] == [1]
        assert await store.retention.deleted_task("kling", "default", "theirs-1") is None

    async def test_deleted_task_without_provider_id_leaves_none(self, store: Store, url: str) -> None:
        await store.apply([whole(over(1, provider_task_id=None, status=Status.EXPIRED)), whole(over(2))])
        assert [step.tasks for step in await delete_all(store)] == [2]
        assert read(url, "SELECT provider_task_id FROM forgotten") == [("theirs-2",)]

    async def test_deleted_task_can_return_and_be_deleted(self, store: Store) -> None:
        await store.apply([whole(over())])
        await delete_all(store)
        await store.apply([whole(over(2, provider_task_id="theirs-1"))])
        await delete_all(store, now=LATER + DAY)
        assert await store.retention.deleted_task("kling", "default", "theirs-1") == a_task(2).id
        # The record of the deleted ID is renewed.
        assert [step.tombstones for step in await delete_all(store, now=LATER + REMEMBERED)] == [0]

    # ---- other old rows

    async def test_old_orphans_are_deleted(self, store: Store) -> None:
        settled = an_orphan(provider_task_id="x", state="orphan", next_poll_at=None)
        orphans = [
            settled,
            replace(settled, provider_task_id="younger", last_at=NOW + timedelta(microseconds=1)),
            # It was never looked up: the provider could not be reached, or too many orphans were pending.
            an_orphan(provider_task_id="waiting"),
        ]
        await store.apply([writing(orphan=orphan) for orphan in orphans])
        assert [step.orphans for step in await delete_all(store)] == [2]
        assert {orphan.provider_task_id for orphan in await store.orphans.latest(limit=10)} == {"younger"}

    async def test_old_alarms_are_deleted(self, store: Store) -> None:
        minute = timedelta(minutes=1)
        last, this = NOW - minute, NOW + minute
        await store.apply([writing(alarms=(alarm(last), alarm(this)))])
        assert [step.alarms for step in await delete_all(store, until=this + minute)] == [1]
        stats = await store.stats(client=None, now=NOW)
        assert [each.last_at for each in stats.alarms] == [this]

    async def test_deletion_step_respects_its_limit(self, store: Store) -> None:
        settled = an_orphan(state="orphan", next_poll_at=None)
        hours = [NOW - n * timedelta(hours=1) for n in range(2, 7)]
        pieces = [writing(orphan=replace(settled, provider_task_id=str(n))) for n in range(5)]
        await store.apply([*pieces, *(writing(alarms=(alarm(hour),)) for hour in hours)])
        step = await store.retention.delete_old(until=NOW, now=LATER, after=None, limit=2)
        assert (step.tasks, step.orphans, step.alarms) == (0, 2, 2)

    async def test_pending_delivery_keeps_its_task(self, store: Store) -> None:
        for number in (1, 2, 3):
            await store.apply([whole(over(number))])
        first, second, third = [event.cursor for event in await store.events.read(after=0, limit=10)]
        await store.sinks.register([a_sink(name="shop", address="stdout:", beginning=True)], now=LATER)
        await store.sinks.acquire_lease("shop", owner="me", now=LATER, lease=DAY)
        late = Failure(cursor=first, task_id=over(1).id, attempts=1, error="refused", next_at=LATER + DAY)
        dead_letter = Failure(cursor=second, task_id=over(2).id, attempts=9, error="refused", next_at=None)
        await store.progress.record(
            "shop", ProgressUpdate(cursor=second, failed=(late, dead_letter)), owner="me", now=LATER
        )
        await delete_all(store)
        assert await left(store) == [over(1).id, over(3).id]
        await store.progress.record("shop", ProgressUpdate(cursor=third, delivered=(first,)), owner="me", now=LATER)
        await delete_all(store)
        assert await left(store) == []

    @pytest.mark.parametrize("gone", ["off", "unnamed", "removed"])
    async def test_removed_sink_does_not_block_deletion(self, store: Store, gone: str) -> None:
        await store.sinks.register([a_sink(name="shop", address="stdout:", beginning=True)], now=NOW)
        await store.apply([whole(over())])
        soon = NOW + DAY
        (event,) = await store.events.read(after=0, limit=10)
        await store.sinks.acquire_lease("shop", owner="me", now=NOW, lease=DAY)
        failed = Failure(cursor=event.cursor, task_id=over().id, attempts=1, error="refused", next_at=soon)
        await store.progress.record("shop", ProgressUpdate(failed=(failed,)), owner="me", now=NOW)
        await delete_all(store, now=soon)
        assert await left(store) == [over().id]
        if gone == "off":
            await store.sinks.switch("shop", on=False, now=soon)
        elif gone == "removed":
            await store.sinks.delete("shop")
        await delete_all(store, now=LATER if gone == "unnamed" else soon)
        assert await left(store) == []

    async def test_audit_is_kept_for_a_minimum_time(self, store: Store) -> None:
        for age in (DAY, 80 * DAY, 100 * DAY):
            entry = AuditEntry(at=LATER - age, client="ops", action=Action.REPLAY, object=f"{age.days} days")
            await store.audit.write(entry)

        await delete_all(store)

        assert [entry.object for entry in await store.audit.entries(limit=10)] == ["80 days", "1 days"]

    async def test_reader_can_detect_missed_events(self, store: Store) -> None:
        assert await store.events.horizon() == 0
        await store.apply([whole(over())])
        await store.apply([writing(a_task(2), events=(an_event(a_task(2), 2),), alarms=(alarm(NOW - DAY),))])
        kept = [event.cursor for event in await store.events.read(after=0, limit=10)]
        newest = await store.events.latest()
        await delete_all(store)
        assert [event.cursor for event in await store.events.read(after=0, limit=10)] == kept[1:2]
        assert await store.events.horizon() == kept[2]
        assert await store.events.latest() == newest
