"""A canceled batch leaves no running asyncio task and no unreported exception."""

import asyncio
import gc
from typing import Any

import pytest

from tests.support.brokers.cases import CASES
from tests.support.conditions import until
from tests.support.published_events import events_of

STEPS = 10


@pytest.mark.parametrize("name", ["jetstream", "redis"])
async def test_send_canceled_twice_leaves_no_task_behind(name: str) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async with CASES[name]() as case:
        for steps in range(STEPS):
            sink = case.sink("timeout=5")
            await sink.open()
            # The sink connects before the proxy stops the data.
            await sink.send(events_of(1, upto=1))
            case.line.flows.clear()
            sending = asyncio.create_task(sink.send(events_of(2, upto=3)))
            await until(lambda: case.line.holding > 0)

            sending.cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait({sending})

            case.line.flows.set()
            await sink.close()
            del sink, sending
            await until(lambda: case.line.open == 0)

    gc.collect()
    await asyncio.sleep(0)
    assert reported == []
