"""Whether requests can be served, and what is wrong at a provider: anybody may ask, without a key and often.

A look writes as requests do. A page that is damaged elsewhere fails requests all the same, so it also counts how the
latest batches of requests ended. What was seen is kept for a moment, and all who ask while somebody looks share that
look: a database that hangs is not given one more write to hang on with each request. Nobody waits without a bound.
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
# Longer than a lock is waited for: then the database itself says what is wrong.
PATIENCE: Final = timedelta(seconds=8)
TROUBLE: Final[Mapping[Trouble, str]] = MappingProxyType(
    {
        Trouble.CREDENTIAL: "the provider refuses the credential; run `homing doctor`",
        Trouble.UNREADABLE: "the provider's answers cannot be read; check its base URL",
        Trouble.OUTAGE: "the provider does not answer, or answers with server errors",
    }
)


class Readiness:
    """One look at a time, at the parts that a callback needs."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Callable[[], datetime],
        failing: Callable[[], str | None] = lambda: None,
        patience: timedelta = PATIENCE,
    ) -> None:
        """``failing`` returns why the latest batches of requests could not be committed, None where they could."""
        self._store = store
        self._clock = clock
        self._failing = failing
        self._patience = patience
        self._seen: tuple[datetime, list[Check]] | None = None
        self._looking: asyncio.Task[list[Check]] | None = None

    async def check(self) -> list[Check]:
        """Return whether the parts work, as was seen just now or is being seen."""
        now = self._clock()
        if self._seen is not None and timedelta() <= now - self._seen[0] < KEPT:
            return self._seen[1]
        if (looking := self._looking) is None:
            looking = self._looking = asyncio.create_task(self._look(now), name="homing readiness")
            looking.add_done_callback(self._looked)
        # Whoever stops waiting leaves the look to the others.
        seconds = self._patience.total_seconds()
        done, _ = await asyncio.wait({looking}, timeout=seconds)
        if not done:
            return [_red(f"the database has not answered for {seconds:g} s: look at its load and its locks")]
        return looking.result()

    async def close(self) -> None:
        """Wait for no look that is still under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self, now: datetime) -> list[Check]:
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
            return _red(f"the database cannot be written ({type(error).__name__}): the log says more")
        if (failure := self._failing()) is not None:
            return _red(f"the latest requests could not be written: {failure}")
        return Check(name="database", ok=True, detail="rows can be written")

    async def _accounts(self) -> list[Check]:
        """Return what is wrong with accounts: requests are served all the same."""
        try:
            states = await self._store.accounts.states()
        except HomingError:
            return []
        return [
            Check(name=f"provider {one.provider}", ok=False, detail=TROUBLE[one.trouble], fatal=False)
            for one in states
            if one.trouble is not None
        ]

    def _looked(self, looking: asyncio.Task[list[Check]]) -> None:
        self._looking = None
        if not looking.cancelled():
            # Whoever waited has it; where nobody does any more, it must not be reported as forgotten.
            looking.exception()


def _red(detail: str) -> Check:
    return Check(name="database", ok=False, detail=detail)
