"""Searches the provider's list for a submission with a lost reply, where the provider takes no external ID.

Only an entry with the task's own callback URL is the task. One with equal input never is.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tracker.model.task import Task
from tracker.providers.base import Account, BadCredential, Busy, Found, Page
from tracker.rules import recovery
from tracker.rules.schedule import Policy
from tracker.service.lookups import takes_external_id

if TYPE_CHECKING:
    from tracker.service.polling import Poller

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


async def search(
    poller: "Poller", task: Task, account: Account, policy: Policy
) -> tuple[Found | Busy | BadCredential | None, int]:
    """Read the newest pages of the list. Return the task as ``Found``, a ``Busy`` or ``BadCredential``, or None.

    The number is that of the requests. It ends at the first page with entries from before the task.
    """
    cursor: str | None = None
    for page in range(1, MOST_PAGES + 1):
        outcome = await poller.list_page(account, task.kind, cursor)
        if not isinstance(outcome, Page):
            return (outcome if isinstance(outcome, Busy | BadCredential) else None), page
        for found in outcome.found:
            if poller.addressee(account, found) == task.id:
                return found, page
        times = [found.report.created_at for found in outcome.found if found.report.created_at is not None]
        cursor = outcome.next
        if cursor is None or (times and min(times) < task.created_at - policy.adopt_window):
            return None, page
    return None, MOST_PAGES
