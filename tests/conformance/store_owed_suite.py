"""What every store must do for the relay: what is due and what waits, replays, and what people see of it."""

from collections.abc import Sequence
from typing import Any

from tests.builders import NOW, writing
from tests.conformance.outbox_case import LEASE, SECOND, due, failure, happened, held, settled, state_of
from tests.conformance.store_case import alarm
from tracker.contract import Told
from tracker.storage.store import Store
from tracker.views import Again, NewSink, Settled


class StoreOwed:
    """What a sink is owed, as sentences."""

    # ---- what is due

    async def test_of_a_task_only_the_first_is_due(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=tuple(failure(told) for told in events))
        assert await due(store.outbox) == [(events[0].cursor, 1), (events[3].cursor, 1)]
        assert await due(store.outbox, limit=1) == [(events[0].cursor, 1)]
        await settled(store, delivered=(events[0].cursor,))
        await settled(store, failed=(failure(events[3], next_at=None),))
        assert await due(store.outbox) == [(events[1].cursor, 1), (events[4].cursor, 1)]

    async def test_what_has_no_task_waits_for_nothing(self, store: Store) -> None:
        await store.apply([writing(alarms=(alarm(),)), writing(alarms=(alarm(provider="other"),))])
        events = await store.outbox.events(after=0, limit=10)
        assert [told.alarm is not None for told in events] == [True, True]
        await held(store)
        await settled(store, failed=tuple(failure(told) for told in events))
        assert await due(store.outbox) == [(told.cursor, 1) for told in events]
        assert await store.outbox.waiting("shop", []) == {}

    async def test_the_longest_due_comes_first(self, store: Store) -> None:
        events = await happened(store, 3, 1)
        await held(store)
        times = [NOW + 3 * SECOND, NOW + SECOND, NOW + 2 * SECOND]
        await settled(store, failed=tuple(failure(told, next_at=at) for told, at in zip(events, times, strict=True)))
        assert await store.outbox.next_due("shop") == NOW + SECOND
        assert await due(store.outbox, NOW + 2 * SECOND) == [(events[1].cursor, 1), (events[2].cursor, 1)]
        assert await due(store.outbox) == []

    async def test_the_later_ones_of_a_task_wait_as_long_as_the_first(self, store: Store) -> None:
        first, second, third = await happened(store, 1)
        await held(store)
        await settled(store, cursor=third.cursor, failed=tuple(failure(told) for told in (first, second, third)))
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, attempts=2, next_at=much),))
        assert await store.outbox.next_due("shop") == much
        assert first.task is not None
        assert await store.outbox.waiting("shop", [first.task.id, "another"]) == {first.task.id: much}
        await settled(store, delivered=(first.cursor,))
        assert await store.outbox.next_due("shop") == NOW
        assert await due(store.outbox) == [(second.cursor, 1)]

    async def test_a_dead_one_lets_the_later_ones_go(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        await held(store)
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, next_at=much), failure(second, attempts=0, next_at=much)))
        await settled(store, failed=(failure(first, attempts=2, next_at=None),))
        assert await due(store.outbox) == [(second.cursor, 0)]
        [dead] = await store.outbox.deliveries(dead=True, limit=10)
        assert (dead.cursor, dead.next_at) == (first.cursor, None)
        assert (await state_of(store)).dead == 1

    async def test_what_waits_behind_an_earlier_one_is_not_next(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        await held(store)
        much = NOW + 60 * SECOND
        await settled(store, failed=(failure(first, next_at=much),))
        await settled(store, failed=(failure(second),))
        assert await due(store.outbox) == []
        assert await store.outbox.next_due("shop") == much

    async def test_all_that_waits_can_be_made_due_at_once(self, store: Store) -> None:
        events = await happened(store, 3, 1)
        await held(store)
        times = (NOW + 60 * SECOND, NOW + 3_600 * SECOND, None)
        await settled(store, failed=tuple(failure(told, next_at=at) for told, at in zip(events, times, strict=True)))
        await store.outbox.hurry("shop", now=NOW)
        assert await due(store.outbox) == [(events[0].cursor, 1), (events[1].cursor, 1)]

    async def test_sinks_do_not_see_each_others_deliveries(self, store: Store) -> None:
        first, second, _ = await happened(store, 1)
        other = NewSink(name="other", address="stdout:", beginning=True)
        await store.outbox.register([other], now=NOW)
        await store.outbox.claim("other", owner="me", now=NOW, lease=LEASE)
        await store.outbox.settle("other", Settled(failed=(failure(first),)), owner="me", now=NOW)
        await held(store)
        await settled(store, failed=(failure(second),))
        assert await due(store.outbox) == [(second.cursor, 1)]
        assert first.task is not None
        assert await store.outbox.waiting("other", [first.task.id]) == {first.task.id: NOW}
        await settled(store, delivered=(first.cursor, second.cursor))
        assert [each.sink for each in await store.outbox.deliveries(limit=10)] == ["other"]

    # ---- again

    async def told_all(self, store: Store, tasks: int = 2) -> Sequence[Told]:
        events = await happened(store, tasks)
        await held(store)
        await settled(store, cursor=events[-1].cursor, told=len(events))
        return events

    async def replayed(self, store: Store, *, dry_run: bool = False, **again: Any) -> int:
        return await store.outbox.replay("shop", Again(**again), lambda _: True, now=NOW, dry_run=dry_run)

    async def test_a_replay_owes_once_more_what_was_told(self, store: Store) -> None:
        events = await self.told_all(store)
        task_id = events[3].subject
        assert await self.replayed(store, task_id=task_id, dry_run=True) == 3
        assert await due(store.outbox) == []
        assert await self.replayed(store, task_id=task_id) == 3
        assert await due(store.outbox) == [(events[3].cursor, 0)]
        assert (await state_of(store)).waiting == 3

    async def test_a_replay_takes_a_time_and_no_more_than_was_told(self, store: Store) -> None:
        await self.told_all(store)
        await happened(store, 1, first=3)
        assert await self.replayed(store, since=NOW, dry_run=True) == 6
        assert await self.replayed(store, since=NOW, until=NOW, dry_run=True) == 0
        assert await self.replayed(store, since=NOW + SECOND, dry_run=True) == 0
        assert await store.outbox.replay("nobody", Again(), lambda _: True, now=NOW, dry_run=False) == 0

    async def test_a_replay_of_the_dead_brings_back_only_them(self, store: Store) -> None:
        events = await self.told_all(store)
        await settled(store, failed=(failure(events[1], attempts=21, next_at=None),))
        assert await self.replayed(store, dead=True) == 1
        assert await due(store.outbox) == [(events[1].cursor, 0)]
        assert (await state_of(store)).dead == 0

    async def test_a_replay_leaves_out_what_the_sink_does_not_take(self, store: Store) -> None:
        events = await self.told_all(store)
        wanted = events[0].subject
        count = await store.outbox.replay("shop", Again(), lambda told: told.subject == wanted, now=NOW, dry_run=False)
        assert count == 3
        assert {each.task_id for each in await store.outbox.deliveries(limit=10)} == {wanted}

    # ---- to be looked at

    async def test_deliveries_are_given_in_pages(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, failed=tuple(failure(told) for told in events))
        seen: list[int] = []
        after = None
        while page := await store.outbox.deliveries(after=after, limit=2, dead=False, sink="shop"):
            seen += [each.cursor for each in page]
            after = (page[-1].cursor, page[-1].sink)
        assert seen == [told.cursor for told in events]
        assert len(await store.outbox.deliveries(task_id=events[0].subject, limit=10)) == 3
        assert await store.outbox.deliveries(dead=True, limit=10) == []

    async def test_the_oldest_that_was_not_told_is_owed_or_behind(self, store: Store) -> None:
        events = await happened(store, 2)
        await held(store)
        await settled(store, cursor=events[-1].cursor, failed=(failure(events[4]),))
        state = await state_of(store)
        assert (state.oldest_at, state.waiting, state.behind) == (events[4].at, 1, 0)
