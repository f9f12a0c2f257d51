"""`homing sinks` over the real API: what a table says of a sink that is off."""

from argparse import Namespace
from dataclasses import replace

import pytest

from homing.commands.client import ApiClient
from homing.commands.sinks import run_sinks
from tests.keys import LOCAL_ACCESS
from tests.unit.api_stand_in import StandIn, asking
from tests.unit.sinks_stand_in import SHOP
from tracker.api import create_api


async def test_below_the_table_each_sink_that_is_off_says_why_and_what_turns_it_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracker = StandIn()
    gone = replace(SHOP, on=False, last_error="410 Gone")
    tracker.switchboard.states = [
        replace(SHOP, name="told", at_least=True),
        gone,
        replace(gone, name="lines", failures=0),
    ]
    async with asking(create_api(tracker, LOCAL_ACCESS)) as client:
        assert await run_sinks(Namespace(json=False), ApiClient(client)) == 0
    *table, refused, paused = capsys.readouterr().out.splitlines()
    assert sum("at least 3" in line for line in table) == 1
    assert refused.startswith("shop is off, its receiver wants no more: 410 Gone (")
    assert refused.endswith(" ago); homing sinks resume shop goes on with what it has missed")
    assert paused == "lines is off, paused; homing sinks resume lines goes on with what it has missed"
