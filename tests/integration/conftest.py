"""These tests run on the event loop that `homing serve` runs on."""

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from tests.databases import sqlite_url
from tests.relay_stage import Stage, stage
from tracker.delivery.timing import RELAY_TIMING


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def on(tmp_path: Path) -> AsyncIterator[Stage]:
    """Yield a stage to tell one sink on, step by step."""
    # What went well is written down where a test says so.
    timing = replace(RELAY_TIMING, grace=timedelta(milliseconds=50), settle=timedelta(hours=1))
    async with stage(sqlite_url(tmp_path), timing) as one:
        yield one
