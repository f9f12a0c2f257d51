"""Whether requests can be served, and what is wrong at a provider: anybody may ask, without a key and often.

Looking means writing. So what was seen is kept for a moment, and all who ask while somebody looks share that look: a
database that hangs is not given one more write to hang on with each request.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tracker.errors import HomingError
from tracker.models import Trouble
from tracker.storage.store import Store
from tracker.views import Check

KEPT: Final = timedelta(seconds=1)
TROUBLE: Final[Mapping[Trouble, str]] = MappingProxyType(
    {
        Trouble.CREDENTIAL: "the provider refuses the credential; `homing doctor` tries it",
        Trouble.UNREADABLE: "the provider's answers cannot be read; check its base URL",
        Trouble.OUTAGE: "the provider does not answer, or answers with errors of its own",
    }
)


class Readiness:
    """One look at a time, at the parts that a delivery needs."""

    def __init__(self, *, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._seen: tuple[datetime, list[Check]] | None = None
        self._looking: asyncio.Task[list[Check]] | None = None

    async def check(self) -> list[Check]:
        """Tell whether the parts work, as was seen just now or is being seen."""
        now = self._clock()
        if self._seen is not None and timedelta() <= now - self._seen[0] < KEPT:
            return self._seen[1]
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(now), name="homing readiness")
            self._looking.add_done_callback(self._looked)
        # Whoever stops waiting leaves the look to the others.
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Wait for no look that is still under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self, now: datetime) -> list[Check]:
        try:
            await self._store.ping()
        except HomingError as error:
            checks = [Check(name="database", ok=False, detail=error.detail)]
        else:
            checks = [Check(name="database", ok=True, detail="rows can be written"), *await self._accounts()]
        self._seen = (now, checks)
        return checks

    async def _accounts(self) -> list[Check]:
        """Return what is wrong with accounts: requests are served all the same."""
        try:
            states = await self._store.account_states()
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
