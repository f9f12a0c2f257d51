"""Shared suite for writes, run by ``test_stores.py`` on each database."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.properties.observations import observed_in_turn
from tests.suites.store_case import LEASE, alarm, changing, looking, read, refusing
from tests.support.builders import NOW, PICTURE, a_report, a_task, an_entry, an_event, by_poll, writing
from tests.support.published_events import readable
from tracker.errors import Conflict, ServiceError
from tracker.model.changes import by_external_id, by_id, by_idempotency_key, by_provider_id, by_sent_id, by_unanswered
from tracker.model.task import Alarm, Status, Trust, changed
from tracker.service.recorder import Recorder
from tracker.storage.due_task_store import Listed
from tracker.storage.store import Store
from tracker.storage.task_store import HISTORY_LIMIT


class StoreWrites:
    """Batches, uniqueness, history, events, alarms, submissions and claims, as sentences."""

    # ---- a batch

    async def test_new_task_is_read_back_unchanged(self, store: Store) -> None:
        task = observed_in_turn(
            a_task(tags=("a", "b"), request={"prompt": "ä"}), [by_poll(a_report(assets=(PICTURE,)))], Trust.TOKEN
        )
        await store.apply([writing(task)])
        assert await store.tasks.get(task.id) == task

    async def test_unknown_task_is_none(self, store: Store) -> None:
        assert await store.tasks.get("hm0") is None

    async def test_changes_of_one_task_apply_in_arrival_order(self, store: Store) -> None:
        task = a_task()
        numbers = [changing(task, version=version) for version in (2, 3, 4)]
        results = await store.apply([writing(task), *numbers])
        assert [result.version for result in results] == [1, 1, 2, 3]
        kept = await store.tasks.get(task.id)
        assert kept is not None
        assert kept.version == 4

    async def test_change_sees_earlier_changes_of_its_batch(self, store: Store) -> None:
        task = a_task(external_id="x", idempotency_key="i", provider_task_id="p", request_hash="h")
        keys = [
            by_id(task.id),
            by_provider_id("kling", "default", "p"),
            by_sent_id("kling", "default", task.id),
            by_external_id("studio", "x"),
            by_idempotency_key("studio", "i"),
            by_unanswered("studio", "h"),
        ]
        assert await store.apply([looking(*keys), writing(task), looking(*keys)]) == [[None] * 6, task, [task.id] * 6]
        assert await store.apply([looking(*keys)]) == [[task.id] * 6]

    async def test_keys_are_scoped_to_their_owner(self, store: Store) -> None:
        task = a_task(external_id="x", idempotency_key="i", provider_task_id="p", request_hash="h")
        await store.apply([writing(task)])
        foreign_keys = [
            by_provider_id("kling", "other", "p"),
            by_provider_id("other", "default", "p"),
            by_sent_id("kling", "other", task.id),
            by_external_id("other", "x"),
            by_idempotency_key("other", "i"),
            by_unanswered("other", "h"),
        ]
        assert await store.apply([looking(*foreign_keys)]) == [[None] * 6]

    async def test_answered_submission_is_not_found_as_unanswered(self, store: Store) -> None:
        await store.apply([writing(a_task(request_hash="h", answered_at=NOW))])
        assert await store.apply([looking(by_unanswered("studio", "h"))]) == [[None]]

    async def test_keys_beyond_one_statement_are_all_looked_up(self, store: Store) -> None:
        tasks = [a_task(number) for number in range(1, 1202)]
        await store.apply([writing(task) for task in tasks])
        found = await store.apply([looking(*(by_id(task.id) for task in tasks))])
        assert found == [[task.id for task in tasks]]

    async def test_change_error_leaves_the_rest_of_the_batch(self, store: Store) -> None:
        first, last = a_task(1), a_task(2)
        results = await store.apply([writing(first), refusing(), writing(last)])
        assert isinstance(results[1], Conflict)
        assert await store.tasks.get(first.id) == first
        assert await store.tasks.get(last.id) == last

    async def test_failed_batch_leaves_nothing_behind(self, store: Store) -> None:
        task = a_task(external_id="x")
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            await store.apply([writing(task, counts={"polls": 1}), writing(a_task(2, external_id="x"))])
        assert await store.tasks.get(task.id) is None
        assert (await store.stats(client=None, now=NOW)).polls == 0

    async def test_recorder_commits_the_rest_of_a_failed_batch(self, store: Store) -> None:
        recorder = Recorder(store)
        await recorder.open()
        tasks = [a_task(number, external_id="same" if number in {3, 6} else None) for number in range(1, 9)]
        answers = await asyncio.gather(*(recorder.apply(writing(task)) for task in tasks), return_exceptions=True)
        await recorder.close()
        assert [type(answer) for answer in answers].count(ServiceError) == 1
        kept = [task for task in tasks if await store.tasks.get(task.id) is not None]
        assert len(kept) == 7

    # ---- unique keys

    @pytest.mark.parametrize("name", ["provider_task_id", "external_id", "idempotency_key"])
    async def test_id_belongs_to_one_task(self, store: Store, name: str) -> None:
        await store.apply([writing(a_task(1, **{name: "x"}))])
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            await store.apply([writing(a_task(2, **{name: "x"}))])

    @pytest.mark.parametrize("name", ["external_id", "idempotency_key"])
    async def test_other_client_may_use_the_same_id(self, store: Store, name: str) -> None:
        await store.apply([writing(a_task(1, **{name: "x"})), writing(a_task(2, client="other", **{name: "x"}))])
        assert await store.tasks.get(a_task(2).id) is not None

    @pytest.mark.parametrize("together", [True, False])
    async def test_rejected_task_frees_its_client_ids(self, store: Store, *, together: bool) -> None:
        names = {"external_id": "x", "idempotency_key": "i"}
        first, second = a_task(1, **names), a_task(2, **names)
        await store.apply([writing(first)])
        freeing = changing(first, status=Status.REJECTED, released=True)
        pieces = [freeing, writing(second)]
        for batch in [pieces] if together else [[piece] for piece in pieces]:
            await store.apply(batch)
        keys = looking(by_external_id("studio", "x"), by_idempotency_key("studio", "i"))
        assert await store.apply([keys]) == [[second.id, second.id]]
        freed = await store.tasks.get(first.id)
        assert freed is not None
        assert freed.external_id == "x"

    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    async def test_id_transfers_between_rows_in_one_batch(self, store: Store, order: tuple[int, int]) -> None:
        holder, taker = a_task(order[0], provider_task_id="p"), a_task(order[1])
        await store.apply([writing(holder), writing(taker)])
        left = changed(holder, provider_task_id=None, version=2)
        took = changed(taker, provider_task_id="p", version=2)
        events = (an_event(took, 2), an_event(left, 2, "failed"))

        keys = by_id(taker.id), by_provider_id("kling", "default", "p")
        await store.apply([writing(took, *keys, others=(left,), events=events)])

        assert [await store.tasks.get(each.id) for each in (holder, taker)] == [left, took]
        found = readable(await store.events.read(after=0, limit=10))
        assert [(event.task_id, event.task and event.task.id) for event in found] == [(took.id,) * 2, (left.id,) * 2]

    # ---- history, events, alarms, counts

    async def test_repeated_observation_is_counted_not_added(self, store: Store) -> None:
        task = a_task()
        entry, other = an_entry(task, "one"), an_entry(task, "two", provider_status="failed")
        await store.apply([writing(task, entries=(entry, other)), writing(task, entries=(entry,))])
        await store.apply([writing(task, entries=(entry,))])
        history = await store.tasks.history(task.id)
        assert [(shown.provider_status, shown.repeats) for shown in history] == [("processing", 2), ("failed", 0)]
        assert (await store.stats(client=None, now=NOW)).duplicate_callbacks == 2

    async def test_same_key_on_two_tasks_is_two_observations(self, store: Store) -> None:
        tasks = a_task(1), a_task(2)
        await store.apply([writing(task, entries=(an_entry(task, "one"),)) for task in tasks])
        assert [len(await store.tasks.history(task.id)) for task in tasks] == [1, 1]

    async def test_history_is_in_arrival_order(self, store: Store) -> None:
        task = a_task()
        await store.apply([writing(task, entries=(an_entry(task, "late", at=NOW + LEASE), an_entry(task, "early")))])
        await store.apply([writing(task, entries=(an_entry(task, "again"),))])
        shown = await store.tasks.history(task.id)
        assert [entry.at for entry in shown] == [NOW + LEASE, NOW, NOW]

    async def test_long_history_returns_the_newest(self, store: Store) -> None:
        task = a_task()
        entries = tuple(an_entry(task, str(number), provider_status=str(number)) for number in range(HISTORY_LIMIT + 2))
        await store.apply([writing(task, entries=entries)])
        shown = [entry.provider_status for entry in await store.tasks.history(task.id)]
        assert shown == [str(number) for number in range(2, HISTORY_LIMIT + 2)]

    async def test_events_are_numbered_in_batch_order(self, store: Store, url: str) -> None:
        one, two = a_task(1), a_task(2)
        await store.apply([writing(one, events=(an_event(one, 2),)), writing(two, events=(an_event(two, 2),))])
        await store.apply([writing(one, events=(an_event(one, 3), an_event(one, 4)))])
        rows = read(url, "SELECT id, task_id, sequence FROM events ORDER BY id")
        assert [(task_id, sequence) for _, task_id, sequence in rows] == [
            (one.id, 2),
            (two.id, 2),
            (one.id, 3),
            (one.id, 4),
        ]
        assert [number for number, *_ in rows] == sorted({number for number, *_ in rows})

    async def test_task_sequence_number_is_unique(self, store: Store) -> None:
        task = a_task()
        await store.apply([writing(task, events=(an_event(task, 2),))])
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            await store.apply([writing(task, events=(an_event(task, 2, "failed"),))])

    async def test_alarms_are_counted_hourly_and_keep_the_last(self, store: Store) -> None:
        hour = NOW.replace(minute=0)
        first = [alarm(hour + timedelta(minutes=minute), detail=str(minute)) for minute in (1, 59)]
        await store.apply([writing(alarms=(each,)) for each in first])
        await store.apply([writing(alarms=(alarm(hour + timedelta(minutes=59), detail="x"),))])
        await store.apply([writing(alarms=(alarm(hour + timedelta(minutes=30), kind=Alarm.ORPHAN),))])
        await store.apply([writing(alarms=(alarm(hour + timedelta(hours=1)),))])
        counted = (await store.stats(client=None, now=NOW)).alarms
        assert [(each.kind, each.hour - hour, each.count, each.detail) for each in counted] == [
            (Alarm.MISMATCH, timedelta(hours=1), 1, "a"),
            (Alarm.MISMATCH, timedelta(), 3, "x"),
            (Alarm.ORPHAN, timedelta(), 1, "a"),
        ]

    async def test_counts_add_up(self, store: Store) -> None:
        await store.apply([writing(counts={"polls": 1, "unverified_callbacks": 2}), writing(counts={"polls": 1})])
        await store.apply([writing(counts={"callbacks": 3})])
        stats = await store.stats(client=None, now=NOW)
        assert (stats.polls, stats.unverified_callbacks, stats.callbacks) == (2, 2, 3)

    # ---- submissions

    async def test_submission_body_is_kept_until_dropped(self, store: Store) -> None:
        task = a_task()
        await store.apply([writing(task, submission=b"\x00\xffbody")])
        assert await store.tasks.submission(task.id) == b"\x00\xffbody"
        await store.apply([writing(task, drop_submission=True)])
        assert await store.tasks.submission(task.id) is None

    # ---- claims

    async def test_due_tasks_are_leased_oldest_first(self, store: Store) -> None:
        waits = {1: 2, 2: 1, 3: 3, 4: -1, 5: None}
        tasks = {n: a_task(n, next_poll_at=None if w is None else NOW - timedelta(seconds=w)) for n, w in waits.items()}
        await store.apply([writing(task) for task in tasks.values()])
        leased = await store.due_tasks.acquire(now=NOW, limit=10, owner="me", lease=LEASE)
        assert [task.id for task in leased] == [tasks[n].id for n in (3, 1, 2)]
        assert all((task.lease_owner, task.lease_until) == ("me", NOW + LEASE) for task in leased)
        assert await store.due_tasks.next_due() == NOW - timedelta(seconds=3)

    async def test_lease_batch_respects_its_limit(self, store: Store) -> None:
        await store.apply([writing(a_task(n, next_poll_at=NOW - timedelta(seconds=n))) for n in range(1, 6)])
        first = await store.due_tasks.acquire(now=NOW, limit=2, owner="me", lease=LEASE)
        rest = await store.due_tasks.acquire(now=NOW, limit=10, owner="me", lease=LEASE)
        assert [task.id for task in [*first, *rest]] == [a_task(n).id for n in (5, 4, 3, 2, 1)]

    async def test_poll_lease_of_expected_task_is_released(self, store: Store) -> None:
        """Homing never submits the task, so no submission of it can be in progress."""
        task = a_task(attempts=0, attempt_deadline_at=None, next_poll_at=NOW)
        await store.apply([writing(task)])
        assert len(await store.due_tasks.acquire(now=NOW, limit=1, owner="dead", lease=LEASE)) == 1

        await store.due_tasks.release(owner="me", margin=timedelta())

        assert len(await store.due_tasks.acquire(now=NOW, limit=1, owner="me", lease=LEASE)) == 1

    async def test_task_lease_blocks_others_until_it_expires(self, store: Store) -> None:
        task = a_task(next_poll_at=NOW)
        await store.apply([writing(task)])
        assert not await store.due_tasks.is_due(NOW - timedelta(microseconds=1), lease=LEASE)
        assert await store.due_tasks.is_due(NOW, lease=LEASE)
        assert len(await store.due_tasks.acquire(now=NOW, limit=1, owner="dead", lease=LEASE)) == 1
        almost = NOW + LEASE - timedelta(microseconds=1)
        assert not await store.due_tasks.is_due(almost, lease=LEASE)
        assert await store.due_tasks.acquire(now=almost, limit=1, owner="me", lease=LEASE) == []
        assert await store.due_tasks.is_due(NOW + LEASE, lease=LEASE)
        taken = await store.due_tasks.acquire(now=NOW + LEASE, limit=1, owner="me", lease=LEASE)
        assert [each.lease_owner for each in taken] == ["me"]
        assert await store.tasks.get(task.id) == taken[0]

    async def test_task_lease_from_a_fast_clock_is_over(self, store: Store) -> None:
        ahead = timedelta(hours=5)
        await store.apply([writing(a_task(next_poll_at=NOW))])
        assert len(await store.due_tasks.acquire(now=NOW + ahead, limit=1, owner="dead", lease=LEASE)) == 1

        assert await store.due_tasks.is_due(NOW, lease=LEASE)
        taken = await store.due_tasks.acquire(now=NOW, limit=1, owner="me", lease=LEASE)

        assert [each.lease_owner for each in taken] == ["me"]

    async def test_poll_planned_too_late_is_brought_forward(self, store: Store) -> None:
        hour, day = timedelta(hours=1), timedelta(days=1)
        nameless = {"sent_external_id": None, "provider_task_id": None}
        plans: dict[int, dict[str, Any]] = {
            1: {"next_poll_at": NOW + 2 * hour},
            2: {"next_poll_at": NOW + hour},
            3: {"next_poll_at": NOW + 3 * hour, "status": Status.EXPIRED},
            4: {"next_poll_at": NOW + 3 * day, "status": Status.EXPIRED},
            5: {"next_poll_at": NOW + 3 * day, **nameless},
            6: {"next_poll_at": None},
        }
        tasks = {n: a_task(n, **plan) for n, plan in plans.items()}
        await store.apply([writing(task) for task in tasks.values()])

        assert await store.due_tasks.bring_forward(now=NOW, furthest=hour, expired=day) == 2

        found = {n: await store.tasks.get(task.id) for n, task in tasks.items()}
        due = [n for n, task in found.items() if task is not None and task.next_poll_at == NOW]
        assert due == [1, 4]

    async def test_backlog_counts_tasks_that_a_list_can_answer(self, store: Store) -> None:
        known = {"provider_task_id": "p", "next_poll_at": NOW}
        video = "videos/omni-video"
        tasks = [a_task(n, **known | {"provider_task_id": f"p-{n}"}) for n in (1, 2, 3)]
        tasks += [a_task(4, **known | {"provider_task_id": "p-4", "kind": video, "account": "other"})]
        tasks += [
            a_task(5, **known | {"provider_task_id": None}),
            a_task(6, **known | {"provider_task_id": "p-6", "conflict_at": NOW}),
            a_task(7, **known | {"provider_task_id": "p-7", "next_poll_at": NOW + LEASE}),
            a_task(8, **known | {"provider_task_id": "p-8", "lease_owner": "x", "lease_until": NOW + LEASE}),
        ]
        await store.apply([writing(task) for task in tasks])

        found = await store.due_tasks.backlog(NOW, lease=LEASE, above=3)

        assert {(one.account, one.kind): (one.count, one.oldest_at) for one in found} == {
            ("default", tasks[0].kind): (3, tasks[0].created_at),
            ("other", video): (1, tasks[3].created_at),
        }
        assert await store.due_tasks.backlog(NOW, lease=LEASE, above=4) == []

    async def test_tasks_beyond_lists_are_leased_first_beside_them(self, store: Store) -> None:
        waits: dict[int, dict[str, Any]] = {
            1: {"provider_task_id": "p-1"},
            2: {"provider_task_id": "p-2", "conflict_at": NOW},
            3: {},
            4: {"provider_task_id": "p-4"},
        }
        tasks = [a_task(n, next_poll_at=NOW - timedelta(seconds=9 - n), **more) for n, more in waits.items()]
        await store.apply([writing(task) for task in tasks])

        first = await store.due_tasks.acquire_beside_lists(now=NOW, limit=3, owner="me", lease=LEASE)

        assert {task.id for task in first} == {tasks[n].id for n in (0, 1, 2)}
        rest = await store.due_tasks.acquire_beside_lists(now=NOW, limit=3, owner="me", lease=LEASE)
        assert [task.id for task in rest] == [tasks[3].id]

    async def test_page_leases_only_due_tasks_of_its_account(self, store: Store) -> None:
        rows: dict[int, dict[str, Any]] = {
            1: {},
            2: {"account": "other"},
            3: {"next_poll_at": NOW + timedelta(microseconds=1)},
            4: {"lease_owner": "another", "lease_until": NOW + LEASE},
            5: {"conflict_at": NOW},
            6: {"next_poll_at": None},
            7: {},
        }
        usual = {"next_poll_at": NOW}
        tasks = [a_task(n, **usual | {"provider_task_id": f"p-{n}"} | more) for n, more in rows.items()]
        await store.apply([writing(task) for task in tasks])
        listed = Listed(provider="kling", account="default", ids=[f"p-{n}" for n in range(1, 7)] + ["unknown"], at=NOW)

        leased = await store.due_tasks.acquire_listed(listed, owner="me", lease=LEASE)

        assert [task.id for task in leased] == [tasks[0].id]
        assert (leased[0].lease_owner, leased[0].lease_until) == ("me", NOW + LEASE)
        assert await store.due_tasks.acquire_listed(listed, owner="other", lease=LEASE) == []
        nothing = replace(listed, ids=[])
        assert await store.due_tasks.acquire_listed(nothing, owner="me", lease=LEASE) == []

    async def test_concurrent_leases_never_share_a_task(self, store: Store, url: str) -> None:
        await store.apply([writing(a_task(n, next_poll_at=NOW)) for n in range(1, 21)])
        other = Store(url)
        await other.open()
        reports = [
            each.due_tasks.acquire(now=NOW, limit=4, owner=f"{number}", lease=LEASE)
            for number, each in enumerate([store, other] * 3)
        ]
        leased = [task.id for tasks in await asyncio.gather(*reports) for task in tasks]
        await other.close()
        assert len(leased) == len(set(leased)) == 20
