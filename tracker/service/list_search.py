"""Searches the provider's list for a submission with a lost reply, where the provider takes no external ID.

Only an entry with the task's own callback URL is the task. One with equal input never is.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
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
LATEST: Final = datetime.max.replace(tzinfo=UTC)


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

    ``urls`` are the entries with a callback URL of Homing: for a task's ID, the provider ID and that URL.
    """

    at: datetime
    urls: dict[str, tuple[str, str]] = field(default_factory=dict)
    oldest_at: datetime = LATEST
    cursor: str | None = None
    pages: int = 0
    failed: bool = False

    def is_enough(self, task: Task, policy: Policy) -> bool:
        """Return whether reading on does not help: the task is found, or the reading has ended."""
        if self.pages == 0:
            return False
        is_past = self.oldest_at < task.created_at - policy.adopt_window
        return task.id in self.urls or is_past or self.failed or self.cursor is None or self.pages >= MOST_PAGES


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

        The list only gives the ID. Its page may have been read for another task before, so a query has the state.
        """
        key = (account.id, task.kind)
        requests = 0
        async with self._locks[key]:
            listing = self._listings.get(key)
            if listing is None or not timedelta() <= self._clock() - listing.at < self._policy.absence_gap:
                listing = self._listings[key] = Listing(at=self._clock())
            while not listing.is_enough(task, self._policy):
                requests += 1
                outcome = await self._queries.list_page(account, task.kind, listing.cursor)
                self._add(listing, account, outcome)
                if isinstance(outcome, Busy | BadCredential):
                    return outcome, requests
        if task.id not in listing.urls:
            return None, requests
        provider_task_id, url = listing.urls[task.id]
        answer = await self._queries.query(account, task.kind, provider_task_id)
        if isinstance(answer, Found):
            # The list has shown whose task it is, even if this answer does not repeat it.
            return replace(answer, callback_url=url), requests + 1
        return (answer if isinstance(answer, Busy | BadCredential) else None), requests + 1

    def _add(self, listing: Listing, account: Account, outcome: ListOutcome) -> None:
        """Add a page to the listing, or note that it failed."""
        listing.at = self._clock()
        listing.pages += 1
        if not isinstance(outcome, Page):
            listing.failed = True
            return
        for found in outcome.found:
            provider_task_id, url = found.report.provider_task_id, found.callback_url
            task_id = self._urls.task_at(account.provider.name, url)
            if task_id is not None and provider_task_id is not None:
                listing.urls.setdefault(task_id, (provider_task_id, url))
            listing.oldest_at = min(listing.oldest_at, found.report.created_at or LATEST)
        listing.cursor = outcome.next
