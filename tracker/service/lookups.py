"""Lookups by external ID: for which URLs they are proven to work, and when to test them.

Only one result proves them. Homing queries by its own external ID at this URL and for this kind, and the answer is that
task. A reply that repeats the ID proves nothing, because a gateway may echo its input and rename it upstream.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Literal

from tracker.model.changes import Seen
from tracker.model.task import SETTLED, Task
from tracker.providers.base import Account
from tracker.rules.schedule import Policy
from tracker.storage.store import Store

# Databases of earlier versions hold "lookup by external id". An echo in any reply was enough for it.
FOUND_BY_EXTERNAL_ID: Final = "task found by external id"
# Test a capability again after this time, because a gateway may change its backend.
TRUSTED_FOR: Final = timedelta(days=1)
LONGEST_GAP: Final = timedelta(hours=1)
Purpose = Literal["plan", "ask", "search"]


class Lookups:
    """The known facts about lookups by external ID, per URL and kind of task."""

    def __init__(self, *, store: Store, policy: Policy, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._turns: dict[tuple[Purpose, str, str], tuple[datetime, timedelta]] = {}

    async def proven(self, account: Account, kind: str) -> bool:
        """Return whether a lookup by external ID found its task at the URL, for the kind.

        A kind without a documented lookup is never proven: there, "not found" says nothing about the task.
        """
        if not _looks_up(account, kind):
            return False
        seen = await self._store.accounts.capability(account.base_url, kind, FOUND_BY_EXTERNAL_ID)
        return seen is not None and seen[0]

    async def due(self, account: Account, kind: str, purpose: Purpose) -> bool:
        """Return whether to test lookups now. It returns True only once in a while in this process.

        ``plan`` brings the first poll of an accepted task forward. ``ask`` makes a poll a lookup. ``search`` finds a
        task for a lookup, because the recovery of another task needs the result.
        """
        if not _looks_up(account, kind):
            return False
        key = (purpose, account.base_url, kind)
        now = self._clock()
        since, gap = self._turns.get(key, (now, timedelta()))
        # If the clock was set back, the pause must not exceed the gap.
        if since <= now < since + gap:
            return False
        # Set this before the first await, so that of many tasks accepted at once only one makes the lookup.
        self._turns[key] = (now, min(max(gap * 2, self._policy.first_lookup), LONGEST_GAP))
        seen = await self._store.accounts.capability(account.base_url, kind, FOUND_BY_EXTERNAL_ID)
        if seen is None or now - seen[1] > TRUSTED_FOR:
            return True
        self._turns[key] = (now, min(TRUSTED_FOR - (now - seen[1]), LONGEST_GAP))
        return False


def _looks_up(account: Account, kind: str) -> bool:
    named = account.provider.kinds.get(kind)
    return named is None or named.looks_up


def takes_external_id(account: Account, kind: str) -> bool:
    """Return whether a create request of the kind can have an external ID."""
    named = account.provider.kinds.get(kind)
    return named is None or named.takes_external_id


def can_prove(task: Task) -> bool:
    """Return whether a lookup of the task can prove anything: Homing sent its external ID, and the provider has it."""
    return (
        task.attempts > 0
        and task.sent_external_id is not None
        and task.provider_task_id is not None
        and task.status not in SETTLED
    )


def lookup_seen(account: Account, kind: str, at: datetime, *, found: bool) -> Seen:
    """Return the result of a lookup by external ID, for a task that the provider has."""
    return Seen(base_url=account.base_url, kind=kind, name=FOUND_BY_EXTERNAL_ID, present=found, at=at)
