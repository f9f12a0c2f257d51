"""An event that becomes a dead letter while it is in flight still precedes the later events of its task."""

import asyncio
from datetime import timedelta

from tests.support.relay_harness import ONE, RelayHarness
from tests.support.scripted_sink import NO, ScriptedSink
from tracker.delivery.sinks.base import DELIVERED
from tracker.model.event import PublishedEvent


async def test_dead_letter_in_flight_still_precedes_later(
    relay: RelayHarness,
) -> None:
    leaves, arrives = asyncio.Event(), asyncio.Event()
    sink = ScriptedSink(answer=lambda event: NO if event.subject == ONE else DELIVERED)
    worker = await relay.worker(sink)
    await relay.happen(1, 2)
    await relay.deliver_all_new(worker)
    await worker.finish()
    assert [delivery.task_id for delivery in await relay.pending()] == [ONE]

    relay.clock.advance(timedelta(hours=1))
    worker.hold(float("inf"))

    def held(event: PublishedEvent) -> asyncio.Event | None:
        if (event.subject, event.sequence) != (ONE, 2):
            return None
        leaves.set()
        return arrives

    sink.answer, sink.held = lambda _: DELIVERED, held
    sending = asyncio.create_task(worker.pending.deliver())
    async with asyncio.timeout(10):
        await leaves.wait()
    assert await relay.store.deliveries.dead_letter("shop", now=relay.clock(), task_id=ONE, dry_run=False)
    await relay.happen(1, 2)
    await relay.deliver_all_new(worker)
    assert [event.sequence for event in sink.received if event.subject == ONE] == []
    arrives.set()
    await sending
    await relay.deliver_all_pending(worker)
    assert [event.sequence for event in sink.received if event.subject == ONE] == [2, 3]
