"""Functions that wait for a condition, with a limit."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

LIMIT_SECONDS = 60.0
PAUSE_SECONDS = 0.01


async def until(condition: Callable[[], Any], *, within: float = LIMIT_SECONDS, pause: float = PAUSE_SECONDS) -> None:
    """Wait until a condition holds. It may be a coroutine function. The times are in seconds."""
    end = time.monotonic() + within
    while True:
        holds = condition()
        if await holds if asyncio.iscoroutine(holds) else holds:
            return
        assert time.monotonic() < end, f"the condition did not hold within {within:g} s"
        await asyncio.sleep(pause)


def result_of(condition: Callable[[], Any], *, within: float = LIMIT_SECONDS) -> Any:
    """Call a function until its result is true, and return the result. The limit is in seconds."""
    end = time.monotonic() + within
    while not (result := condition()):
        assert time.monotonic() < end, f"the condition did not hold within {within:g} s"
        time.sleep(PAUSE_SECONDS)
    return result
