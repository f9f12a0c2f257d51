"""Searches the provider's list for a submission with a lost reply, where the provider takes no external ID.

Only an entry with the task's own callback URL is the task. One with equal input never is.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tracker.model.task import Task
from tracker.providers.base import Account, BadCredential, Busy, Found, ListOutcome, Page
from tracker.rules import recovery
from tracker.rules.schedule import Policy
from tracker.service.callback_urls import CallbackUrls
from tracker.service.lookups import takes_external_id
from tracker.service.provider_queries import ProviderQueries

# The provider lists a task as soon as it exists. Later, only `homing reconcile --discover` reads the whole list.
SEARCHED_FOR: Final = timedelta(hours=1)
MOST_PAGES: Final = 3
# The next search comes after this part of the task's age.
AGE_SHARE: Final = 0.25


def is_searchable(task: Task, account: Account, now: datetime, policy: Policy) -> bool:
    """Return whether the list can show the task: it was submitted with its callback URL, and its reply is lost."""
    return (
        task.attempts > 0
        and task.provider_task_id is None
        and task.callback_requested
        and account.provider.capabilities.lists_tasks
        and not takes_external_id(account, task.kind)
        and not recovery.may_be_submitting(task, now, policy)
        and now - task.created_at < SEARCHED_FOR
    )


def next_search_at(task: Task, now: datetime, policy: Policy) -> datetime:
    """Return when to search again."""
    return now + min(max((now - task.created_at) * AGE_SHARE, policy.absence_gap), policy.greatest_gap)


@dataclass(slots=True, kw_only=True)
class Listing:
    """The newest entries of a list, as far as they were read. ``at`` is when the last page came.

    ``found`` has the entries with a callback URL of Homing, by the ID of the task whose URL it is.
    """

    found: dict[str, Found] = field(default_factory=dict)
    oldest_at: datetime | None = None
    cursor: str | None = None
    pages: int = 0
    failed: bool = False
    at: datetime

    def is_enough(self, task: Task, policy: Policy) -> bool:
        """Return whether reading on does not help: the list, its pages or its failure ended the reading."""
        if self.pages == 0:
            return False
        reached = self.oldest_at is not None and self.oldest_at < task.created_at - policy.adopt_window
        return task.id in self.found or reached or self.failed or self.cursor is None or self.pages >= MOST_PAGES


class ListSearch:
    """Searches the list of an account for tasks. The tasks that are searched for at the same time share the pages."""

    def __init__(
        self, queries: ProviderQueries, urls: CallbackUrls, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self._queries = queries
        self._urls = urls
        self._policy = policy
        self._clock = clock
        self._listings: dict[tuple[str, str], Listing] = {}
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def search(self, task: Task, account: Account) -> tuple[Found | Busy | BadCredential | None, int]:
        """Search for a task. Return it, or the answer that prevented that, or None, and the number of requests.

        An entry from a page that was read for another task may be old, so Homing queries that task again.
        """
        key = (account.id, task.kind)
        async with self._locks[key]:
            listing = self._listings.get(key)
            if listing is None or not timedelta() <= self._clock() - listing.at < self._policy.absence_gap:
                listing = self._listings[key] = Listing(at=self._clock())
            requests = 0
            while not listing.is_enough(task, self._policy):
                requests += 1
                outcome = await self._queries.list_page(account, task.kind, listing.cursor)
                if not self._add(listing, account, outcome):
                    return (outcome if isinstance(outcome, Busy | BadCredential) else None), requests
        found = listing.found.get(task.id)
        if found is None or requests:
            return found, requests
        answer = await self._queries.query(account, task.kind, found.report.provider_task_id or "")
        return (answer if isinstance(answer, Found | Busy | BadCredential) else None), 1

    def _add(self, listing: Listing, account: Account, outcome: ListOutcome) -> bool:
        """Add a page to the listing. Return whether it is one."""
        listing.at = self._clock()
        listing.pages += 1
        if not isinstance(outcome, Page):
            listing.failed = True
            return False
        for found in outcome.found:
            if (task_id := self._urls.task_at(account.provider.name, found.callback_url)) is not None:
                listing.found.setdefault(task_id, found)
        times = [found.report.created_at for found in outcome.found if found.report.created_at is not None]
        listing.oldest_at = min([*times, *([listing.oldest_at] if listing.oldest_at else [])], default=None)
        listing.cursor = outcome.next
        return True
