"""A sink whose endpoint answers 410, over a real store: the sink keeps the error that turned it off."""

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


@pytest.mark.parametrize("several_endpoints", [False, True], ids=["one receiver", "several"])
async def test_gone_outcome_wins_over_other_outcomes(
    tmp_path: Path,
    several_endpoints: bool,  # noqa: FBT001 - a test parameter
) -> None:
    outcomes = {ONE: GONE, TWO: NO, THREE: DELIVERED}

    def where(event: PublishedEvent) -> str:
        return event.subject if several_endpoints else "shop"

    sink = ScriptedSink(answer=lambda event: outcomes[event.subject], where=where)
    async with relay_harness(sqlite_url(tmp_path)) as relay:
        await relay.happen(3, 1, 2)
        worker = await relay.worker(sink)
        async with asyncio.timeout(20):
            await worker.run(asyncio.Event())
        state = await relay.state()
    assert (state.on, state.refused, state.last_error) == (False, True, "410 Gone")
    assert state.delivered == 1
