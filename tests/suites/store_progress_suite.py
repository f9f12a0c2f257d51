"""Shared suite for the relay in every store: leases, sink progress and pending deliveries."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from tests.suites.store_case import alarm
from tests.support.builders import NOW, a_sink, a_task, an_event, writing
from tests.support.published_events import a_success, readable
from tracker.model.event import PublishedEvent
from tracker.model.sinks import Failure, ProgressUpdate, ReplayFilter, SinkState
from tracker.model.task import Event, Status
from tracker.storage.store import Store

SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=10)
SHOP = a_sink(name="shop", address="https://shop.example", beginning=True)
NAMES = ("submitted", "processing", "succeeded")


async def happened(store: Store, tasks: int, events: int = 3, *, first: int = 1) -> list[PublishedEvent]:
    """Write events of tasks, one task after the other, and return all events."""
    for number in range(first, first + tasks):
        task = a_task(number, status=Status.SUCCEEDED, version=events + 1)
        published = [an_event(task, at + 2, NAMES[min(at, 2)]) for at in range(events)]
        await store.apply([writing(task, events=tuple(published))])
    return readable(await store.events.read(after=0, limit=1_000))


def failure(event: PublishedEvent, *, attempts: int = 1, next_at: datetime | None = NOW, **changes: Any) -> Failure:
    values = {"cursor": event.cursor, "task_id": event.task_id, "attempts": attempts, "error": "no", "next_at": next_at}
    return Failure(**(values | changes))


async def held(store: Store, owner: str = "me", *, now: datetime = NOW) -> SinkState:
    await store.sinks.register([SHOP], now=now)
    state = await store.sinks.acquire_lease("shop", owner=owner, now=now, lease=LEASE)
    assert state is not None
    return state


async def settled(store: Store, *, owner: str = "me", now: datetime = NOW, **changes: Any) -> bool:
    return await store.progress.record("shop", ProgressUpdate(**changes), owner=owner, now=now)


async def due(store: Store, now: datetime = NOW, limit: int = 100) -> list[tuple[int, int]]:
    return [
        (delivery.event.cursor, delivery.attempts)
        for delivery in await store.progress.due("shop", now=now, limit=limit)
    ]


async def state_of(store: Store) -> SinkState:
    (state,) = await store.sinks.states()
    return state


class StoreProgress:
    """Sinks and their progress, as sentences."""

    # ---- sinks

    async def test_new_sink_starts_now_or_at_the_beginning(self, store: Store) -> None:
        events = await happened(store, 2)
        await store.sinks.register([SHOP, a_sink(name="late", address="stdout:")], now=NOW)
        late, shop = await store.sinks.states()
        assert (late.cursor, late.behind) == (events[-1].cursor, 0)
        assert (shop.cursor, shop.behind, shop.oldest_at) == (0, len(events), NOW)

    async def test_re_added_sink_keeps_cursor_and_gets_new_url(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        await settled(store, cursor=events[1].cursor, delivered_count=2)
        await store.sinks.register([replace(SHOP, address="https://new.example")], now=NOW + SECOND)
        state = await state_of(store)
        assert (state.address, state.cursor, state.delivered) == ("https://new.example", events[1].cursor, 2)

    # ---- events

    async def test_committed_event_equals_the_event_read_later(self, store: Store, url: str) -> None:
        rich = a_success(7, tags=("a", "b"), request={"prompt": "é"}, external_id="order-7", poll_count=3)
        late = a_success(8, status=Status.FAILED, reason="no", callback_requested=True, last_observed_at=NOW + SECOND)
        await store.apply([writing(rich, events=(Event(type="homing.task.succeeded", task=rich, at=NOW),))])
        await store.apply([writing(alarms=(alarm(),)), writing(late, events=(an_event(late, 4, "failed"),))])
        # The event carries the task as of the end of its change.
        moved = a_task(9, status=Status.PROCESSING, version=2)
        then = replace(moved, next_poll_at=NOW + SECOND, provider_task_id="theirs")
        await store.apply([writing(then, events=(Event(type="homing.task.processing", task=moved, at=NOW),))])
        reader = Store(url)
        await reader.open()
        try:
            read = readable(await reader.events.read(after=0, limit=100))
        finally:
            await reader.close()
        known = readable(await store.events.read(after=0, limit=100))
        assert [event.alarm is None for event in known] == [True, True, False, True]
        assert [(one.cursor, one.id, one.type, one.at) for one in known] == [
            (one.cursor, one.id, one.type, one.at) for one in read
        ]
        assert [one.body for one in known] == [one.body for one in read]
        assert [one.task and one.task.client_callback_url for one in known] == [
            one.task and one.task.client_callback_url for one in read
        ]

    async def test_uncommitted_event_is_never_published(self, store: Store) -> None:
        await happened(store, 1)
        lost = a_task(2, version=2, status=Status.SUBMITTED)
        task = a_task(2, version=2, status=Status.PROCESSING)
        event = an_event(lost, 2, "submitted")
        with pytest.raises(DBAPIError):
            await store.apply([writing(lost, events=(event, event))])
        await store.apply([writing(task, events=(an_event(task, 2, "processing"),))])
        last = readable(await store.events.read(after=0, limit=100))[-1]
        assert (last.type, last.task and last.task.status) == ("homing.task.processing", Status.PROCESSING)

    async def test_event_pages_are_in_order_for_any_writer(self, store: Store, url: str) -> None:
        other = Store(url)
        await other.open()
        try:
            for number in range(1, 21):
                task = a_task(number, status=Status.SUCCEEDED, version=2)
                await (store, other)[number % 3 == 0].apply([writing(task, events=(an_event(task, 2, "succeeded"),))])
        finally:
            await other.close()
        seen: list[str] = []
        cursor = 0
        while page := readable(await store.events.read(after=cursor, limit=3)):
            seen += [event.subject for event in page]
            cursor = page[-1].cursor
        assert seen == [a_task(number).id for number in range(1, 21)]

    # ---- leases

    async def test_sink_lease_blocks_others_until_it_ends(self, store: Store) -> None:
        state = await held(store)
        assert (state.owner, state.lease_until) == ("me", NOW + LEASE)
        early = NOW + LEASE - SECOND
        assert await store.sinks.acquire_lease("shop", owner="other", now=early, lease=LEASE) is None
        taken = await store.sinks.acquire_lease("shop", owner="other", now=NOW + LEASE, lease=LEASE)
        assert taken is not None
        assert taken.owner == "other"
        assert await store.sinks.acquire_lease("shop", owner="me", now=NOW + LEASE, lease=LEASE) is None

    async def test_sink_lease_from_a_fast_clock_is_over(self, store: Store) -> None:
        ahead = NOW + timedelta(hours=5)
        events = await happened(store, 1)
        await held(store, "dead", now=ahead)
        await settled(
            store, owner="dead", now=ahead, cursor=events[0].cursor, failed=(failure(events[0], next_at=ahead),)
        )

        await held(store, "me", now=NOW)

        assert await due(store, NOW) == [(events[0].cursor, 1)]

    async def test_sink_lease_renewed_continues(self, store: Store) -> None:
        await held(store)
        await held(store, now=NOW + 8 * SECOND)
        assert await store.sinks.acquire_lease("shop", owner="other", now=NOW + LEASE, lease=LEASE) is None

    async def test_sink_lease_released_is_free_for_others(self, store: Store) -> None:
        await held(store)
        await store.sinks.release_leases("other")
        assert await store.sinks.acquire_lease("shop", owner="other", now=NOW, lease=LEASE) is None
        await store.sinks.release_leases("me")
        assert await store.sinks.acquire_lease("shop", owner="other", now=NOW, lease=LEASE) is not None
        await store.sinks.release_leases(None)
        assert (await state_of(store)).owner is None

    async def test_missing_sink_cannot_be_leased(self, store: Store) -> None:
        assert await store.sinks.acquire_lease("nobody", owner="me", now=NOW, lease=LEASE) is None

    async def test_lost_lease_holder_writes_nothing(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        await held(store, "other", now=NOW + LEASE)
        fresh: dict[str, Any] = {
            "cursor": events[0].cursor,
            "failed": (failure(events[0]),),
            "delivered_count": 1,
            "off": True,
        }
        assert not await settled(store, **fresh)
        state = await state_of(store)
        assert (state.cursor, state.waiting, state.delivered, state.on) == (0, 0, 0, True)
        assert await settled(store, owner="other", **fresh)

    async def test_cursor_never_goes_back(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        assert await settled(store, cursor=events[2].cursor)
        assert not await settled(store, cursor=events[1].cursor, delivered_count=1)
        assert (await state_of(store)).cursor == events[2].cursor
        assert (await state_of(store)).delivered == 0

    # ---- recorded progress

    async def test_successful_delivery_adds_no_row(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[-1].cursor, delivered_count=6)
        assert await store.deliveries.page(limit=10) == []
        state = await state_of(store)
        assert (state.behind, state.waiting, state.dead, state.delivered, state.delivered_at) == (0, 0, 0, 6, NOW)
        assert state.oldest_at is None

    async def test_failure_keeps_its_error_until_delivered(self, store: Store) -> None:
        first, second, *_ = await happened(store, 2)
        await held(store)
        later = NOW + 5 * SECOND
        await settled(
            store,
            cursor=second.cursor,
            failed=(failure(first, next_at=later),),
            error="HTTP 500",
            failures=1,
            delivered_count=1,
        )
        [delivery] = await store.deliveries.page(limit=10)
        assert (delivery.event_id, delivery.error, delivery.attempts, delivery.next_at) == (first.id, "no", 1, later)
        state = await state_of(store)
        assert (state.failures, state.last_error, state.last_error_at, state.waiting) == (1, "HTTP 500", NOW, 1)
        await settled(store, delivered=(first.cursor,), delivered_count=1, now=later)
        state = await state_of(store)
        assert (state.failures, state.last_error, state.waiting, state.delivered) == (0, "HTTP 500", 0, 2)

    async def test_postponed_delivery_keeps_its_error(self, store: Store) -> None:
        event, *_ = await happened(store, 1)
        await held(store)
        await settled(store, failed=(failure(event, error="HTTP 500", attempts=3),))
        later = NOW + 5 * SECOND
        await settled(store, failed=(failure(event, error="", attempts=3, next_at=later),), now=later)
        [delivery] = await store.deliveries.page(limit=10)
        assert (delivery.error, delivery.attempts, delivery.next_at) == ("HTTP 500", 3, later)

    async def test_delivery_counts_from_its_first_attempt(self, store: Store) -> None:
        event, *_ = await happened(store, 1)
        await held(store)
        begun = []
        for seconds, attempts in ((0, 0), (3, 0), (5, 1), (9, 2), (12, 2)):
            at = NOW + seconds * SECOND
            await settled(store, failed=(failure(event, attempts=attempts),), now=at)
            (delivery,) = await store.progress.due("shop", now=NOW, limit=10)
            begun.append((delivery.attempts, delivery.first_at))
        first = NOW + 5 * SECOND
        assert begun == [(0, NOW), (0, NOW), (1, first), (2, first), (2, first)]

    async def test_replayed_dead_letter_restarts_its_attempts(self, store: Store) -> None:
        event, *_ = await happened(store, 1)
        await held(store)
        await settled(store, cursor=event.cursor, failed=(failure(event, attempts=20, next_at=None),))
        later = NOW + timedelta(days=9)
        await store.deliveries.replay("shop", ReplayFilter(dead=True), lambda _: True, now=later, dry_run=False)
        (delivery,) = await store.progress.due("shop", now=later, limit=10)
        assert (delivery.attempts, delivery.first_at) == (0, later)

    async def test_deleted_event_has_no_pending_delivery(self, store: Store) -> None:
        first, second, *_ = await happened(store, 1)
        await held(store)
        gone = failure(first, cursor=first.cursor + 1_000)
        assert await settled(store, cursor=second.cursor, failed=(gone, failure(second)))
        assert [each.cursor for each in await store.deliveries.page(limit=10)] == [second.cursor]

    # ---- due deliveries

    async def test_only_the_first_delivery_of_a_task_is_due(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=tuple(failure(event) for event in events))
        assert await due(store) == [(events[0].cursor, 1), (events[3].cursor, 1)]
        assert await due(store, limit=1) == [(events[0].cursor, 1)]
        await settled(store, delivered=(events[0].cursor,))
        await settled(store, failed=(failure(events[3], next_at=None),))
        assert await due(store) == [(events[1].cursor, 1), (events[4].cursor, 1)]

    async def test_event_without_task_waits_for_nothing(self, store: Store) -> None:
        await store.apply([writing(alarms=(alarm(),)), writing(alarms=(alarm(provider="other"),))])
        events = readable(await store.events.read(after=0, limit=10))
        assert [event.alarm is not None for event in events] == [True, True]
        await held(store)
        await settled(store, failed=tuple(failure(event) for event in events))
        assert await due(store) == [(event.cursor, 1) for event in events]
        assert await store.progress.pending_until("shop", []) == {}

    async def test_due_deliveries_are_oldest_first(self, store: Store) -> None:
        events = await happened(store, 3, 1)
        await held(store)
        times = [NOW + 3 * SECOND, NOW + SECOND, NOW + 2 * SECOND]
        await settled(store, failed=tuple(failure(event, next_at=at) for event, at in zip(events, times, strict=True)))
        assert await store.progress.next_due("shop") == NOW + SECOND
        assert await due(store, NOW + 2 * SECOND) == [(events[1].cursor, 1), (events[2].cursor, 1)]
        assert await due(store) == []

    async def test_later_deliveries_of_a_task_wait_for_the_first(self, store: Store) -> None:
        first, second, third = await happened(store, 1)
        await held(store)
        await settled(store, cursor=third.cursor, failed=tuple(failure(event) for event in (first, second, third)))
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, attempts=2, next_at=much),))
        assert await store.progress.next_due("shop") == much
        assert first.task is not None
        assert await store.progress.pending_until("shop", [first.task.id, "another"]) == {first.task.id: much}
        await settled(store, delivered=(first.cursor,))
        assert await store.progress.next_due("shop") == NOW
        assert await due(store) == [(second.cursor, 1)]

    async def test_dead_letter_releases_later_deliveries(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        await held(store)
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, next_at=much), failure(second, attempts=0, next_at=much)))
        await settled(store, failed=(failure(first, attempts=2, next_at=None),))
        assert await due(store) == [(second.cursor, 0)]
        [dead] = await store.deliveries.page(dead=True, limit=10)
        assert (dead.cursor, dead.next_at) == (first.cursor, None)
        assert (await state_of(store)).dead == 1

    async def test_dead_letter_does_not_hasten_earlier_ones(self, store: Store) -> None:
        first, second, third = await happened(store, 1)
        await held(store)
        much = NOW + 60 * SECOND
        await settled(store, failed=tuple(failure(event, next_at=much) for event in (first, second, third)))
        await settled(store, failed=(failure(second, attempts=2, next_at=None),))
        assert await due(store) == []
        assert await store.progress.next_due("shop") == much

    async def test_blocked_delivery_is_not_next(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        await held(store)
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, next_at=much),))
        await settled(store, failed=(failure(second),))
        assert await due(store) == []
        assert await store.progress.next_due("shop") == much

    async def test_pending_deliveries_can_all_be_made_due(self, store: Store) -> None:
        events = await happened(store, 3, 1)
        await held(store)
        times = (NOW + 60 * SECOND, NOW + 3_600 * SECOND, None)
        await settled(store, failed=tuple(failure(event, next_at=at) for event, at in zip(events, times, strict=True)))
        await store.progress.make_due("shop", now=NOW)
        assert await due(store) == [(events[0].cursor, 1), (events[1].cursor, 1)]

    async def test_later_deliveries_are_paged_and_can_be_made_due(self, store: Store) -> None:
        events = await happened(store, 4, 1)
        await held(store)
        much = NOW + 60 * SECOND
        times = (much, NOW, much, None)
        await settled(store, failed=tuple(failure(event, next_at=at) for event, at in zip(events, times, strict=True)))
        pages = [
            await store.progress.due_later("shop", now=NOW, after=after, limit=1) for after in (0, events[0].cursor)
        ]
        assert [[one.cursor for one in page] for page in pages] == [[events[0].cursor], [events[2].cursor]]
        assert await store.progress.due_later("shop", now=NOW, after=events[2].cursor, limit=1) == []
        await store.progress.make_due("shop", now=NOW, events=[events[2].cursor, events[3].cursor])
        assert await due(store) == [(events[1].cursor, 1), (events[2].cursor, 1)]

    async def test_sinks_do_not_share_deliveries(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        other = a_sink(name="other", address="stdout:", beginning=True)
        await store.sinks.register([other], now=NOW)
        await store.sinks.acquire_lease("other", owner="me", now=NOW, lease=LEASE)
        await store.progress.record("other", ProgressUpdate(failed=(failure(first),)), owner="me", now=NOW)
        await held(store)
        await settled(store, failed=(failure(second),))
        assert await due(store) == [(second.cursor, 1)]
        assert first.task is not None
        assert await store.progress.pending_until("other", [first.task.id]) == {first.task.id: NOW}
        await settled(store, delivered=(first.cursor, second.cursor))
        assert [each.sink for each in await store.deliveries.page(limit=10)] == ["other"]
