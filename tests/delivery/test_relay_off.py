"""A sink whose receiver wants no more, over a real store: what turned it off stays to be read."""

import asyncio
from pathlib import Path

import pytest

from tests.support.builders import a_task
from tests.support.databases import sqlite_url
from tests.support.relay_harness import relay_harness
from tests.support.scripted_sink import NO, ScriptedSink
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.model.event import PublishedEvent

GONE = Outcome(delivered=False, error="410 Gone", gone=True)
ONE, TWO, THREE = (a_task(number).id for number in (1, 2, 3))


@pytest.mark.parametrize("lanes", [False, True], ids=["one receiver", "several"])
async def test_what_turned_a_sink_off_counts_more_than_what_went_wrong_or_well_beside_it(
    tmp_path: Path,
    lanes: bool,  # noqa: FBT001 - a parameter
) -> None:
    outcomes = {ONE: GONE, TWO: NO, THREE: DELIVERED}

    def where(told: PublishedEvent) -> str:
        return told.subject if lanes else "shop"

    sink = ScriptedSink(answer=lambda told: outcomes[told.subject], where=where)
    async with relay_harness(sqlite_url(tmp_path)) as relay:
        await relay.happen(3, 1, 2)
        teller = await relay.teller(sink)
        async with asyncio.timeout(20):
            await teller.run(asyncio.Event())
        state = await relay.state()
    assert (state.on, state.refused, state.last_error) == (False, True, "410 Gone")
    assert state.delivered == 1
