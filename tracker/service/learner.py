"""Keeps the learned schedule up to date. Every process learns the same from one database."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from tracker.model.clock import Monotonic
from tracker.providers.base import Account
from tracker.rules.learning import Habits, learn
from tracker.rules.schedule import Policy
from tracker.service.repeat import Failures, pause
from tracker.storage.store import Store

log = logging.getLogger("homing.learner")

# If more tasks finished since the last time, only the newest are read. Their number is enough to learn from.
MAX_COMPLETIONS: Final = 2_000


class Learner:
    """``habits`` is the present snapshot; ``run`` renews it."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Mapping[str, Account],
        policy: Policy,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic
        self._learned_at = float("-inf")
        self._failures = Failures(log, "the schedule cannot learn", "the schedule learns again")
        self._first = Habits(
            usual={
                (account.provider.name, kind.name): kind.usual
                for account in accounts.values()
                for kind in account.provider.kinds.values()
            }
        )
        self.habits = self._first

    def forget(self) -> None:
        """Drop everything learned, because the database returned to an older state."""
        self.habits, self._learned_at = self._first, float("-inf")

    async def learn(self) -> None:
        """Learn from the tasks that finished since the last time.

        Raises: StoreUnavailable.
        """
        now = self._clock()
        # A callback that arrives shortly after a poll was not lost.
        until = now - self._policy.callback_grace
        if self.habits.upto is not None and self.habits.upto[0] > now:
            # The clock was set back, so tasks that finish now are earlier than those already learned. Start over.
            self.habits = self._first
        found = await self._store.completions(after=self.habits.upto, until=until, limit=MAX_COMPLETIONS)
        if len(found) == MAX_COMPLETIONS:
            found = await self._store.completions(after=None, until=until, limit=MAX_COMPLETIONS)
        self.habits = learn(self.habits, found)
        self._learned_at = self._monotonic()

    async def lately(self) -> Habits:
        """Return a snapshot that is at most ``policy.learn_every`` old.

        Raises: StoreUnavailable.
        """
        if self._monotonic() - self._learned_at >= self._policy.learn_every.total_seconds():
            await self.learn()
        return self.habits

    async def refresh(self) -> None:
        """Learn. On a failure, log it once and keep the present snapshot."""
        with self._failures.survived():
            await self.learn()

    async def run(self, stop: asyncio.Event) -> None:
        """Renew the snapshot every ``policy.learn_every`` until ``stop``."""
        while not stop.is_set():
            await self.refresh()
            await pause(stop, self._policy.learn_every)
