"""The loops of a process. Each runs until it is stopped, and a failure ends neither the others nor the process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, Protocol

from tracker.service.repeat import pause

RESTART_DELAY: Final = timedelta(seconds=5)
log: Final = logging.getLogger("homing.loops")


class Loop(Protocol):
    """A loop that runs until ``stop`` is set, and then finishes its work in progress."""

    async def run(self, stop: asyncio.Event) -> None: ...


@asynccontextmanager
async def looping(loops: Iterable[Loop], *, wait: timedelta = RESTART_DELAY) -> AsyncIterator[None]:
    """Run the loops within the block. A loop that fails is logged and restarted after ``wait``."""
    stop = asyncio.Event()
    running = [asyncio.create_task(_run_and_restart(loop, stop, wait), name=f"homing {_name(loop)}") for loop in loops]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*running)


async def _run_and_restart(loop: Loop, stop: asyncio.Event, wait: timedelta) -> None:
    while not stop.is_set():
        try:
            await loop.run(stop)
        except Exception as error:  # noqa: BLE001 - after any error, the other loops and the server continue
            # Only the type is logged, because the message of another library may quote secrets.
            log.error("the %s failed with %s and is restarted", _name(loop), type(error).__name__)  # noqa: TRY400
            await pause(stop, wait)


def _name(loop: Loop) -> str:
    return type(loop).__name__.lower()
