"""Shared suite for operations on sinks in every store: disable, enable, replay, dead-letter and list."""

from collections.abc import Sequence
from typing import Any

from tests.suites.store_case import alarm
from tests.suites.store_progress_suite import LEASE, SECOND, due, failure, happened, held, settled, state_of
from tests.support.builders import NOW, writing
from tracker.model.event import PublishedEvent
from tracker.model.sinks import ReplayFilter
from tracker.storage.store import Store


class StoreDeliveries:
    """Test the operations on sinks and deliveries."""

    # ---- off, on, and away

    async def test_stopped_sink_is_off_until_enabled(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        await settled(store, failed=(failure(events[0], next_at=NOW + LEASE),), off=True, failures=1)
        assert not (await held(store)).on
        assert await store.sinks.switch("shop", on=True, now=NOW)
        state = await held(store)
        assert (state.on, state.failures) == (True, 0)
        assert await due(store) == [(events[0].cursor, 1)]
        assert not await store.sinks.switch("nobody", on=True, now=NOW)

    async def test_sink_that_skips_its_lag_continues_from_now(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[1].cursor, failed=(failure(events[0]),))
        await store.sinks.switch("shop", on=True, now=NOW, from_now=True)
        state = await state_of(store)
        assert (state.cursor, state.behind, state.waiting) == (events[-1].cursor, 0, 0)
        assert not await settled(store, cursor=events[2].cursor), "the sink worker does not know it yet"

    async def test_removed_sink_leaves_nothing(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        await settled(store, failed=(failure(events[0]),))
        assert await store.sinks.delete("shop")
        assert not await store.sinks.delete("shop")
        assert await store.deliveries.page(limit=10) == []
        assert not await settled(store)

    async def test_sink_records_who_disabled_it(self, store: Store) -> None:
        events = await happened(store, 1)
        await held(store)
        refusal: dict[str, Any] = {"failed": (failure(events[0]),), "off": True, "error": "410 Gone"}
        assert await settled(store, **refusal, failures=3)
        state = await state_of(store)
        assert (state.refused, state.last_error, state.last_error_at) == (True, "410 Gone", NOW)
        await store.sinks.switch("shop", on=True, now=NOW)
        assert not (await state_of(store)).refused
        await store.sinks.switch("shop", on=False, now=NOW)
        # The sink worker does not know it yet.
        assert await settled(store, failures=4, error="500")
        state = await state_of(store)
        assert (state.on, state.refused) == (False, False)
        # Something was delivered beside it.
        assert await settled(store, **refusal, failures=0)
        assert (await state_of(store)).refused

    # ---- again

    async def delivered_all(self, store: Store, tasks: int = 2) -> Sequence[PublishedEvent]:
        events = await happened(store, tasks)
        await held(store)
        await settled(store, cursor=events[-1].cursor, delivered_count=len(events))
        return events

    async def replayed(self, store: Store, *, dry_run: bool = False, **again: Any) -> int:
        return await store.deliveries.replay("shop", ReplayFilter(**again), lambda _: True, now=NOW, dry_run=dry_run)

    async def test_replay_makes_deliveries_pending_again(self, store: Store) -> None:
        events = await self.delivered_all(store)
        task_id = events[3].subject
        assert await self.replayed(store, task_id=task_id, dry_run=True) == 3
        assert await due(store) == []
        assert await self.replayed(store, task_id=task_id) == 3
        assert await due(store) == [(events[3].cursor, 0)]
        assert (await state_of(store)).waiting == 3

    async def test_replay_starts_at_a_time_and_ends_at_cursor(self, store: Store) -> None:
        await self.delivered_all(store)
        await happened(store, 1, first=3)
        assert await self.replayed(store, since=NOW, dry_run=True) == 6
        assert await self.replayed(store, since=NOW, until=NOW, dry_run=True) == 0
        assert await self.replayed(store, since=NOW + SECOND, dry_run=True) == 0
        assert await store.deliveries.replay("nobody", ReplayFilter(), lambda _: True, now=NOW, dry_run=False) == 0

    async def test_replay_of_dead_letters_restores_only_them(self, store: Store) -> None:
        events = await self.delivered_all(store)
        await settled(store, failed=(failure(events[1], attempts=21, next_at=None),))
        assert await self.replayed(store, dead=True) == 1
        assert await due(store) == [(events[1].cursor, 0)]
        assert (await state_of(store)).dead == 0

    async def test_replay_skips_events_the_sink_does_not_accept(self, store: Store) -> None:
        events = await self.delivered_all(store)
        subject = events[0].subject
        count = await store.deliveries.replay(
            "shop", ReplayFilter(), lambda event: event.subject == subject, now=NOW, dry_run=False
        )
        assert count == 3
        assert {each.task_id for each in await store.deliveries.page(limit=10)} == {subject}

    # ---- dead letters

    async def test_dead_letter_unblocks_the_next_delivery(self, store: Store) -> None:
        first, second, third, other, *_ = await happened(store, 2)
        await held(store)
        later = NOW + 60 * SECOND
        failures = [failure(first, attempts=3, next_at=later, error="500"), failure(other, next_at=later)]
        failures += [failure(each, attempts=0, next_at=later, error="") for each in (second, third)]
        await settled(store, failed=tuple(failures))
        assert await store.deliveries.dead_letter("shop", event_id=first.id, now=NOW, dry_run=True) == 1
        assert (await state_of(store)).dead == 0
        assert await store.deliveries.dead_letter("shop", event_id=first.id, now=NOW, dry_run=False) == 1
        assert await due(store) == [(second.cursor, 0)]
        (dead,) = await store.deliveries.page(dead=True, limit=10)
        assert (dead.cursor, dead.attempts, dead.error) == (first.cursor, 3, "dead-lettered by an operator: 500")
        assert await store.deliveries.dead_letter("shop", event_id=first.id, now=NOW, dry_run=False) == 0
        assert await store.progress.pending_until("shop", [other.subject]) == {other.subject: later}

    async def test_dead_lettering_is_limited_to_task_or_sink(self, store: Store) -> None:
        events = await happened(store, 3)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=tuple(failure(event, error="") for event in events[1:]))
        give_up = store.deliveries.dead_letter
        assert await give_up("shop", task_id=events[3].subject, event_id=events[0].id, now=NOW, dry_run=True) == 0
        assert await give_up("other", now=NOW, dry_run=False) == 0
        assert await give_up("shop", task_id=events[3].subject, now=NOW, dry_run=False) == 3
        assert [each.cursor for each in await store.deliveries.page(dead=True, limit=10)] == [
            event.cursor for event in events[3:6]
        ]
        assert await give_up("shop", now=NOW, dry_run=False) == 5
        state = await state_of(store)
        assert (state.waiting, state.dead, state.cursor) == (0, 8, events[-1].cursor)
        assert {each.error for each in await store.deliveries.page(limit=10)} == {"dead-lettered by an operator"}

    async def test_alarm_is_dead_lettered_by_its_id(self, store: Store) -> None:
        await store.apply([writing(alarms=(alarm(),))])
        events = await happened(store, 1)
        await held(store)
        await settled(store, failed=tuple(failure(event) for event in events))
        assert await store.deliveries.dead_letter("shop", event_id=events[0].id, now=NOW, dry_run=False) == 1
        (dead,) = await store.deliveries.page(dead=True, limit=10)
        assert (dead.cursor, dead.task_id) == (events[0].cursor, None)

    async def test_dead_letter_in_flight_stays_dead_and_blocks_nothing(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        await held(store)
        await settled(store, failed=(failure(first), failure(second, attempts=0, error="")))
        await store.deliveries.dead_letter("shop", event_id=first.id, now=NOW, dry_run=False)
        # The sink worker does not know it yet.
        assert await settled(store, failed=(failure(first, attempts=2, next_at=NOW + 60 * SECOND, error="refused"),))
        (dead,) = await store.deliveries.page(dead=True, limit=10)
        assert (dead.cursor, dead.error) == (first.cursor, "dead-lettered by an operator: no")
        assert await due(store) == [(second.cursor, 0)]

    async def test_dead_letter_can_be_replayed_and_dead_again(self, store: Store) -> None:
        (first, *_) = await self.delivered_all(store, 1)
        await settled(store, failed=(failure(first),))
        for _ in range(2):
            assert await store.deliveries.dead_letter("shop", now=NOW, dry_run=False) == 1
            assert await self.replayed(store, dead=True) == 1
        (delivery,) = await store.deliveries.page(limit=10)
        assert (delivery.attempts, delivery.error) == (0, "dead-lettered by an operator: no")

    # ---- to be looked at

    async def test_deliveries_are_listed_in_pages(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, failed=tuple(failure(event) for event in events))
        seen: list[int] = []
        after = None
        while page := await store.deliveries.page(after=after, limit=2, dead=False, sink="shop"):
            seen += [each.cursor for each in page]
            after = (page[-1].cursor, page[-1].sink)
        assert seen == [event.cursor for event in events]
        assert len(await store.deliveries.page(task_id=events[0].subject, limit=10)) == 3
        assert await store.deliveries.page(dead=True, limit=10) == []

    async def test_oldest_undelivered_is_pending_or_after_cursor(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=(failure(events[4]),))
        state = await state_of(store)
        assert (state.oldest_at, state.waiting, state.behind) == (events[4].at, 1, 0)
