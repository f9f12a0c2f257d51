"""Reads pages of a provider's list while many tasks of one account are due.

A page answers up to some hundred tasks with one request. Each entry counts as the answer to a poll of the task with its
provider ID, if that task was due when Homing requested the page. All other entries are ignored. Batches poll the tasks
that no page answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.model.clock import Monotonic
from tracker.model.records import DueCount
from tracker.model.task import Task
from tracker.providers.base import Account, Found, KeyPair, ListOutcome, Page, Provider
from tracker.rules import list_reading
from tracker.rules.list_reading import Reading
from tracker.rules.outcomes import Rules
from tracker.service.budget import Budgets
from tracker.service.polling import Poller
from tracker.storage.due_task_store import Listed
from tracker.storage.store import Store

COUNT_GAP: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskList:
    """One list of a provider, which all of ``kinds`` share. ``shows_all`` lists may show tasks of other kinds too."""

    kinds: Sequence[str]
    shows_all: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPage:
    """One page of a list: when Homing requested it, its outcome, and the leased tasks that it answers."""

    account: Account
    at: datetime
    outcome: ListOutcome
    answers: Sequence[tuple[Task, Found]] = ()


@dataclass(slots=True, kw_only=True)
class Turn:
    """The current reading of an account's list. ``last_at`` is when its last page was read."""

    account: Account
    task_list: TaskList
    reading: Reading
    last_at: float


class ListPolls:
    """Chooses the list that answers most due tasks, and reads it page by page. The state is in memory only."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Mapping[str, Account],
        poller: Poller,
        budgets: Budgets,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._poller = poller
        self._budgets = budgets
        self._policy = rules.policy
        self._owner = rules.owner
        self._clock = clock
        self._monotonic = monotonic
        self._turns: dict[str, Turn] = {}
        # For each account and list: when it may be read again, and the pause before that.
        self._pauses: dict[tuple[str, str], tuple[float, timedelta]] = {}
        self._counted_at = float("-inf")
        self._is_busy = False

    @property
    def active(self) -> bool:
        """Whether a list is being read."""
        return bool(self._turns)

    def reads(self, account: Account) -> bool:
        """Return whether a list of the account is being read."""
        return account.provider.name in self._turns

    async def next_page(
        self, *, lease: timedelta, paused_until: Callable[[Account, datetime], datetime | None]
    ) -> ListedPage | None:
        """Read one page if many tasks of an account are due, and lease the tasks that it answers.

        None if no list helps now, if the budget has no request, or if another round is reading a page.
        """
        if self._is_busy:
            return None
        self._is_busy = True
        try:
            await self._count(lease)
            now = self._clock()
            for name, turn in list(self._turns.items()):
                if paused_until(turn.account, now) is not None:
                    del self._turns[name]
            turns = sorted(self._turns.values(), key=lambda turn: turn.last_at)
            for turn in turns:
                if self._budgets.of(turn.account.id).take_for_list(now) is None:
                    return await self._read(turn, lease)
            return None
        finally:
            self._is_busy = False

    async def _count(self, lease: timedelta) -> None:
        """Count the due tasks from time to time. Begin the readings that help, and end the ones that do not."""
        at = self._monotonic()
        if at - self._counted_at < COUNT_GAP.total_seconds():
            return
        self._counted_at = at
        above = 0 if self._turns else self._policy.lists_above
        found = await self._store.due_tasks.backlog(self._clock(), lease=lease, above=above)
        for account in self._accounts.values():
            name = account.provider.name
            due = {one.kind: one for one in found if (one.provider, one.account) == (name, account.name)}
            if (turn := self._turns.get(name)) is not None:
                left = _answerable(turn.task_list, due)
                turn.reading = replace(turn.reading, left=sum(one.count for one in left))
                if turn.reading.left <= self._worth(account):
                    self._end(turn)
            elif (chosen := await self._chosen(account, due)) is not None:
                counts = _answerable(chosen, due)
                reading = Reading(left=sum(one.count for one in counts), oldest_at=min(one.oldest_at for one in counts))
                self._turns[name] = Turn(account=account, task_list=chosen, reading=reading, last_at=at)

    async def _chosen(self, account: Account, due: Mapping[str, DueCount]) -> TaskList | None:
        """Return the list that may answer most due tasks, or None if no list may answer enough."""
        helpful: list[tuple[int, int, TaskList]] = []
        for task_list in _lists(account):
            answerable, own = (
                sum(one.count for one in _answerable(each, due))
                for each in (task_list, replace(task_list, shows_all=False))
            )
            until, _ = self._pauses.get((account.provider.name, task_list.kinds[0]), (float("-inf"), timedelta()))
            if answerable > self._policy.lists_above and until <= self._monotonic():
                helpful.append((answerable, own, task_list))
        for _, _, task_list in sorted(helpful, key=lambda one: one[:2], reverse=True):
            # A URL without the batch query has no list at the same path either.
            has_path = not task_list.shows_all or await self._poller.batches(account)
            if has_path and await self._poller.lists(account, task_list.kinds[0]):
                return task_list
        return None

    async def _read(self, turn: Turn, lease: timedelta) -> ListedPage:
        account, reading, at = turn.account, turn.reading, self._clock()
        turn.last_at = self._monotonic()
        outcome = await self._poller.list_page(account, turn.task_list.kinds[0], reading.cursor)
        if not isinstance(outcome, Page):
            self._end(turn)
            return ListedPage(account=account, at=at, outcome=outcome)
        reports = [found.report for found in outcome.found]
        listed = Listed(
            provider=account.provider.name, account=account.name, ids=sorted(list_reading.answering(reports)), at=at
        )
        tasks = await self._store.due_tasks.acquire_listed(listed, owner=self._owner, lease=lease)
        found = {one.report.provider_task_id: one for one in outcome.found}
        turn.reading = list_reading.after_page(
            reading,
            reports,
            outcome.next,
            answered=len(tasks),
            worth=self._worth(account),
        )
        if turn.reading.ended:
            self._end(turn)
        answers = [(task, found[task.provider_task_id]) for task in tasks]
        return ListedPage(account=account, at=at, outcome=outcome, answers=answers)

    def _end(self, turn: Turn) -> None:
        """End a reading, and leave its list alone for a while."""
        name = turn.account.provider.name
        key = (name, turn.task_list.kinds[0])
        _, before = self._pauses.get(key, (0.0, timedelta()))
        pause = list_reading.pause_after(turn.reading, before, worth=self._worth(turn.account))
        self._pauses[key] = (self._monotonic() + pause.total_seconds(), pause)
        self._turns.pop(name, None)

    def _worth(self, account: Account) -> int:
        """Return how many answers are worth a request for a page."""
        return max(min(account.provider.capabilities.batch_size, self._policy.lists_above), 1)


def _answerable(task_list: TaskList, due: Mapping[str, DueCount]) -> Sequence[DueCount]:
    return [one for kind, one in due.items() if task_list.shows_all or kind in task_list.kinds]


def _lists(account: Account) -> Sequence[TaskList]:
    """Return the lists of an account. Kinds whose first pages are the same request share one list."""
    provider: Provider = account.provider
    if not provider.capabilities.lists_tasks:
        return []
    grouped: dict[tuple[object, ...], list[str]] = {}
    for name, kind in provider.kinds.items():
        if kind.needs_api_key and isinstance(account.credential, KeyPair):
            continue
        call = provider.list_page(name, None)
        grouped.setdefault((call.path, call.method, tuple(call.query.items()), call.body), []).append(name)
    across = provider.query_many([]).path if provider.capabilities.batch_size else None
    return [TaskList(kinds=kinds, shows_all=path == across) for (path, *_), kinds in grouped.items()]
