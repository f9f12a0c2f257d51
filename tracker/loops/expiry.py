"""Expiry: the loop that warns of results that are about to stop working, while they can still be fetched."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from tracker.errors import HomingError
from tracker.service.repeat import pause
from tracker.service.tracker import Tracker

log: Final = logging.getLogger("homing.expiry")

NOTICE: Final = timedelta(days=3)
IDLE: Final = timedelta(minutes=5)
STEP: Final = 200


class Expiry:
    """``run_once`` looks once and counts; ``run`` looks until told to stop.

    ``notice`` is how long before their end results are warned of, ``idle`` how long to wait where there are none.
    """

    def __init__(self, tracker: Tracker, *, notice: timedelta = NOTICE, idle: timedelta = IDLE) -> None:
        self._tracker = tracker
        self._notice = notice
        self._idle = idle
        self._trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop``; a look that fails is logged once, and taken again later."""
        while not stop.is_set():
            said, found = "", 0
            try:
                found = await self.run_once()
            except HomingError as error:
                said = error.detail
            except Exception as error:  # noqa: BLE001 - the loop survives any single failure
                said = type(error).__name__
            if said != self._trouble:
                log.warning("results %s", f"cannot be looked at: {said}" if said else "are looked at again")
                self._trouble = said
            if found < STEP:
                await pause(stop, self._idle)

    async def run_once(self) -> int:
        """Warn of the next results of each provider that stop working soon, and count."""
        found = 0
        for account in self._tracker.providers.values():
            found += await self._tracker.store.warn_of_expiry(
                account.provider.name,
                lifetime=account.provider.capabilities.result_lifetime,
                notice=self._notice,
                now=self._tracker.clock(),
                limit=STEP,
            )
        if found:
            self._tracker.feed.hint()
        return found
