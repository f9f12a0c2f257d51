"""Readiness: whether Homing can serve requests, and which providers have trouble. Public, without a key.

A check writes to the database as requests do. It also uses the result of the latest batches, because damage elsewhere
can make requests fail. The result is kept for a moment, and concurrent requests share one check. So a hanging database
does not get one more write with each request. Every wait has a limit.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tracker.errors import HomingError
from tracker.model.records import Check
from tracker.model.task import Trouble
from tracker.storage.store import Store

log: Final = logging.getLogger("homing.readiness")
KEPT: Final = timedelta(seconds=1)
# Longer than the lock timeout, so that the database reports its own error first.
DATABASE_TIMEOUT: Final = timedelta(seconds=8)
TROUBLE: Final[Mapping[Trouble, str]] = MappingProxyType(
    {
        Trouble.CREDENTIAL: "the provider refuses the credential. Run `homing doctor`",
        Trouble.UNREADABLE: "the provider's answers cannot be read. Check its base URL",
        Trouble.OUTAGE: "the provider does not answer, or answers with server errors",
    }
)


class Readiness:
    """Checks the parts that a callback needs, one check at a time."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Callable[[], datetime],
        failing: Callable[[], str | None] = lambda: None,
        patience: timedelta = DATABASE_TIMEOUT,
    ) -> None:
        """``failing`` returns why the latest batches could not be committed, or None if they were committed."""
        self._store = store
        self._clock = clock
        self._failing = failing
        self._patience = patience
        self._seen: tuple[datetime, list[Check]] | None = None
        self._running: asyncio.Task[list[Check]] | None = None

    async def check(self) -> list[Check]:
        """Return the checks: a recent result, or that of the running check."""
        now = self._clock()
        if self._seen is not None and timedelta() <= now - self._seen[0] < KEPT:
            return self._seen[1]
        if (running := self._running) is None:
            running = self._running = asyncio.create_task(self._run_checks(now), name="homing readiness")
            running.add_done_callback(self._checks_done)
        # A request that stops waiting does not cancel the shared check.
        seconds = self._patience.total_seconds()
        done, _ = await asyncio.wait({running}, timeout=seconds)
        if not done:
            return [_red(f"the database has not answered for {seconds:g} s. Check its load and its locks")]
        return running.result()

    async def close(self) -> None:
        """Cancel a running check."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _run_checks(self, now: datetime) -> list[Check]:
        checks = [await self._database()]
        if checks[0].ok:
            checks += await self._accounts()
        self._seen = (now, checks)
        return checks

    async def _database(self) -> Check:
        try:
            await self._store.ping()
        except HomingError as error:
            return _red(error.detail)
        except Exception as error:
            log.exception("the database cannot be checked")
            return _red(f"the database cannot be written ({type(error).__name__}). See the log")
        if (failure := self._failing()) is not None:
            return _red(f"the latest requests could not be written: {failure}")
        return Check(name="database", ok=True, detail="rows can be written")

    async def _accounts(self) -> list[Check]:
        """Return the problems of accounts. Homing serves requests in spite of them."""
        try:
            states = await self._store.accounts.states()
        except HomingError:
            return []
        return [
            Check(name=f"provider {one.provider}", ok=False, detail=TROUBLE[one.trouble], fatal=False)
            for one in states
            if one.trouble is not None
        ]

    def _checks_done(self, running: asyncio.Task[list[Check]]) -> None:
        self._running = None
        if not running.cancelled():
            # Retrieve the error, so that asyncio does not report it if no request waits any more.
            running.exception()


def _red(detail: str) -> Check:
    return Check(name="database", ok=False, detail=detail)
