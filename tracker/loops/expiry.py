"""Expiry: the loop that warns of result URLs that will soon stop working."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from tracker.providers.base import Account
from tracker.service.feed import Feed
from tracker.service.repeat import Failures, pause
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.expiry")

NOTICE: Final = timedelta(days=3)
# Of results that live less long, at most this part of their life. Of one hour, the last 20 minutes.
NOTICE_SHARE: Final = 3
IDLE: Final = timedelta(minutes=5)
# A warning comes this part of the notice late, at most.
IDLE_SHARE: Final = 10
STEP: Final = 200


class Expiry:
    """Warns of results that expire soon. ``run_once`` does one step; ``run`` repeats it until it is stopped.

    ``notice`` is how long before the expiry Homing warns, less for results that live only for hours. ``idle`` is the
    pause if there is nothing to warn of.
    """

    def __init__(
        self,
        store: Store,
        accounts: Mapping[str, Account],
        feed: Feed,
        *,
        clock: Callable[[], datetime],
        notice: timedelta = NOTICE,
        idle: timedelta = IDLE,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._feed = feed
        self._clock = clock
        self._notice = notice
        self._idle = min([idle, *(self._notice_of(account) / IDLE_SHARE for account in accounts.values())])
        self._failures = Failures(log, "expiring results cannot be read", "expiring results are read again")

    async def run(self, stop: asyncio.Event) -> None:
        """Warn of expiring results until ``stop``. A failed step is logged once and repeated later."""
        while not stop.is_set():
            found = 0
            with self._failures.survived():
                found = await self.run_once()
            if found < STEP:
                await pause(stop, self._idle)

    async def run_once(self) -> int:
        """Warn of the next expiring results of each provider. Return how many there were."""
        found = 0
        for account in self._accounts.values():
            found += await self._store.result_expiry.warn(
                account.provider.name,
                lifetime=account.provider.capabilities.result_lifetime,
                notice=self._notice_of(account),
                now=self._clock(),
                limit=STEP,
            )
        if found:
            self._feed.signal_commit()
        return found

    def _notice_of(self, account: Account) -> timedelta:
        return min(self._notice, account.provider.capabilities.result_lifetime / NOTICE_SHARE)
