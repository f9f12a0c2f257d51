"""What is given up while it is being sent still comes before the later events of its task."""

import asyncio
from datetime import timedelta

from tests.support.relay_harness import ONE, RelayHarness
from tests.support.scripted_sink import NO, ScriptedSink
from tracker.delivery.sinks.base import DELIVERED
from tracker.model.event import PublishedEvent


async def test_the_later_events_of_a_task_stay_behind_one_that_is_given_up_while_it_is_sent(
    relay: RelayHarness,
) -> None:
    leaves, arrives = asyncio.Event(), asyncio.Event()
    sink = ScriptedSink(answer=lambda told: NO if told.subject == ONE else DELIVERED)
    teller = await relay.teller(sink)
    await relay.happen(1, 2)
    await relay.all_new(teller)
    await teller.finish()
    assert [owed.task_id for owed in await relay.owed()] == [ONE]

    relay.clock.advance(timedelta(hours=1))
    teller.hold(float("inf"))

    def held(told: PublishedEvent) -> asyncio.Event | None:
        if (told.subject, told.sequence) != (ONE, 2):
            return None
        leaves.set()
        return arrives

    sink.answer, sink.held = lambda _: DELIVERED, held
    sending = asyncio.create_task(teller.deliver_pending())
    async with asyncio.timeout(10):
        await leaves.wait()
    assert await relay.store.deliveries.dead_letter("shop", now=relay.clock(), task_id=ONE, dry_run=False)
    await relay.happen(1, 2)
    await relay.all_new(teller)
    assert [told.sequence for told in sink.received if told.subject == ONE] == []
    arrives.set()
    await sending
    await relay.all_owed(teller)
    assert [told.sequence for told in sink.received if told.subject == ONE] == [2, 3]
