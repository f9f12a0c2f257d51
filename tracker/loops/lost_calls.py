"""The loop that marks helper calls whose answer is lost, so that an operator sees them."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from tracker.service.helper_calls import LOST_PER_STEP, HelperCalls
from tracker.service.repeat import Failures, pause

log: Final = logging.getLogger("homing.helpers")

IDLE: Final = timedelta(seconds=15)


class LostCalls:
    """``run_once`` does one step; ``run`` repeats it until it is stopped."""

    def __init__(self, helpers: HelperCalls, *, idle: timedelta = IDLE) -> None:
        self._helpers = helpers
        self._idle = idle
        self._failures = Failures(log, "lost helper calls cannot be read", "lost helper calls are read again")

    async def run(self, stop: asyncio.Event) -> None:
        """Mark lost calls until ``stop``. A failed step is logged once and repeated later."""
        while not stop.is_set():
            found = 0
            with self._failures.survived():
                found = await self.run_once()
            if found < LOST_PER_STEP:
                await pause(stop, self._idle)

    async def run_once(self) -> int:
        """Mark the next lost calls, and delete claims to ended sessions. Return how many there were."""
        return await self._helpers.give_up_lost()
