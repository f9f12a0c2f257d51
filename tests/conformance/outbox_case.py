"""What the suites of the outbox stand on: events that happened, a sink that is held, and what was written down."""

from datetime import datetime, timedelta
from typing import Any

from tests.builders import NOW, a_task, an_event, writing
from tracker.contract import Told
from tracker.models import Status
from tracker.storage.outbox_store import OutboxStore
from tracker.storage.store import Store
from tracker.views import Failure, NewSink, Settled, SinkState

SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=10)
SHOP = NewSink(name="shop", address="https://shop.example", beginning=True)
NAMES = ("submitted", "processing", "succeeded")


async def happened(store: Store, tasks: int, events: int = 3, *, first: int = 1) -> list[Told]:
    """Let tasks have events, those of one task one after the other, and give all that there are."""
    for number in range(first, first + tasks):
        task = a_task(number, status=Status.SUCCEEDED, version=events + 1)
        told = [an_event(task, at + 2, NAMES[min(at, 2)]) for at in range(events)]
        await store.apply([writing(task, events=tuple(told))])
    return list(await store.outbox.events(after=0, limit=1_000))


def failure(told: Told, *, attempts: int = 1, next_at: datetime | None = NOW, **changes: Any) -> Failure:
    task_id = None if told.task is None else told.task.id
    values = {"cursor": told.cursor, "task_id": task_id, "attempts": attempts, "error": "no", "next_at": next_at}
    return Failure(**(values | changes))


async def held(store: Store, owner: str = "me", *, now: datetime = NOW) -> SinkState:
    await store.outbox.register([SHOP], now=now)
    state = await store.outbox.claim("shop", owner=owner, now=now, lease=LEASE)
    assert state is not None
    return state


async def settled(store: Store, *, owner: str = "me", now: datetime = NOW, **changes: Any) -> bool:
    return await store.outbox.settle("shop", Settled(**changes), owner=owner, now=now)


async def due(outbox: OutboxStore, now: datetime = NOW, limit: int = 100) -> list[tuple[int, int]]:
    return [(owed.told.cursor, owed.attempts) for owed in await outbox.due("shop", now=now, limit=limit)]


async def state_of(store: Store) -> SinkState:
    (state,) = await store.outbox.states()
    return state
