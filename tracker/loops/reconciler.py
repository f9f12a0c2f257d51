"""The reconciler: the loop that polls due tasks, recovers lost submissions and checks orphan callbacks.

A failing task, account or reply does not stop the others. The state is in the rows (``next_poll_at``, leases, counts),
so a restart loses nothing. Only pauses and the budget are in memory.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import HomingError
from tracker.loops.discovery import KINDS_PER_CHECK, Discovery
from tracker.loops.gathering import AT_ONCE, any_of, gathered
from tracker.loops.list_polls import ListPolls
from tracker.model.clock import Monotonic
from tracker.model.records import Orphan
from tracker.model.task import SETTLED, Status, Task
from tracker.providers.base import Account, Busy, Found, Unknown
from tracker.rules import recovery, schedule
from tracker.rules.outcomes import Rules
from tracker.rules.recovery import Step
from tracker.rules.submits import ORIGIN_SUBMIT
from tracker.service.budget import Budgets
from tracker.service.learner import Learner
from tracker.service.polling import BUSY_PAUSE, Poll, PollAnswer, Poller
from tracker.service.repeat import Failures
from tracker.service.submission import Submission
from tracker.storage.store import Store

log = logging.getLogger("homing.reconciler")

ROUNDS: Final = 4
REFUSALS: Final = 3
SILENCES: Final = 2
CLAIM: Final = 100
# While lists are read, a round polls only some tasks beside them: a page soon answers most of the others.
PAGES_PER_ROUND: Final = 5
CLAIM_BESIDE_LISTS: Final = 20
LOOK_AHEAD: Final = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True)
class Counts:
    """The counts of one round: leased tasks, requests and results."""

    claimed: int = 0
    requests: int = 0
    list_pages: int = 0
    settled: int = 0
    changed: int = 0
    unchanged: int = 0
    expired: int = 0
    submitted_again: int = 0
    postponed: int = 0
    failed: int = 0
    orphans_checked: int = 0
    orphans_adopted: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)

    def worked(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


class Reconciler:
    """``run_once`` does one round and returns its counts. ``run`` does rounds until it is stopped."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Mapping[str, Account],
        poller: Poller,
        submission: Submission,
        discovery: Discovery,
        learner: Learner,
        budgets: Budgets,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._poller = poller
        self._submission = submission
        self._discovery = discovery
        self._learner = learner
        self._budgets = budgets
        self._policy = rules.policy
        self._owner = rules.owner
        self._clock = clock
        self._monotonic = monotonic
        self._lists = ListPolls(
            store=store,
            accounts=accounts,
            poller=poller,
            budgets=budgets,
            rules=rules,
            clock=clock,
            monotonic=monotonic,
        )
        self._paused: dict[str, float] = {}
        self._looked_ahead_at, self._set_back = float("-inf"), 0
        self._failures = Failures(log, "the reconciler cannot work", "the reconciler works again")
        self._more = asyncio.Event()
        self._refused: dict[str, set[str]] = defaultdict(set)
        self._silent: dict[str, int] = defaultdict(int)

    async def run(self, stop: asyncio.Event) -> None:
        """Do rounds until ``stop``. A failed round is logged once, and the next one follows.

        Rounds overlap. Each works on the tasks that it has leased, so one slow answer does not delay other tasks. If
        more tasks are due than a round takes, the next one starts at once. In parallel, the schedule learns from
        finished tasks.
        """
        await self._learner.refresh()
        learning = asyncio.create_task(self._learner.run(stop))
        rounds: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            self._more.clear()
            if len(rounds) < ROUNDS:
                started = asyncio.create_task(self._round(stop))
                rounds.add(started)
                started.add_done_callback(rounds.discard)
            await any_of(stop, self._more, within=self._policy.reconciler_idle)
        await asyncio.gather(learning, *rounds)

    async def _round(self, stop: asyncio.Event) -> None:
        with self._failures.survived():
            counts = await self.run_once()
            while counts.claimed >= CLAIM and counts.postponed == 0 and not stop.is_set():
                counts = await self.run_once()

    async def run_once(self) -> Counts:
        """Lease due tasks, poll them, record the answers, and return the counts."""
        counts = Counts()
        # Long enough for the last task of a round in which every poll takes its maximum time.
        policy = self._policy
        lease = policy.query * (2 * CLAIM / AT_ONCE) + policy.attempt + policy.lease_margin
        await self._bring_forward()
        now = self._clock()
        checking = self._budgets.has_for_orphan(now)
        if not await self._store.due_tasks.is_due(now, lease=lease, orphans=checking):
            # Acquiring leases writes. If nothing is due, that would delay batches many times a second.
            return counts
        await self._read_lists(counts, lease)
        due = await self._acquire(lease)
        counts.claimed += len(due)
        if len(due) == CLAIM and self._budgets.has(self._clock()):
            self._more.set()
        grouped: dict[str, list[Task]] = defaultdict(list)
        for task in due:
            grouped[task.provider].append(task)
        for provider, tasks in grouped.items():
            account = self._accounts.get(provider)
            if account is not None:
                await self._poll_account(account, tasks, counts)
        if checking:
            await gathered(self._check_orphan(orphan, counts) for orphan in await self._orphans())
        return counts

    async def _acquire(self, lease: timedelta) -> Sequence[Task]:
        """Lease due tasks. While lists are read, lease no more than may be polled now."""
        now, store = self._clock(), self._store.due_tasks
        if not self._lists.active:
            return await store.acquire(now=now, limit=CLAIM, owner=self._owner, lease=lease)
        if not self._budgets.has(now, beside_lists=True):
            return []
        return await store.acquire_beside_lists(now=now, limit=CLAIM_BESIDE_LISTS, owner=self._owner, lease=lease)

    async def _read_lists(self, counts: Counts, lease: timedelta) -> None:
        """If many tasks of an account are due, answer them from pages of the provider's list."""
        for _ in range(PAGES_PER_ROUND):
            page = await self._lists.next_page(lease=lease, paused_until=self._paused_until)
            if page is None:
                return
            counts.requests += 1
            counts.list_pages += 1
            counts.claimed += len(page.answers)
            await gathered(
                (self._record(page.account, task, found, page.at, counts) for task, found in page.answers),
                at_once=max(len(page.answers), 1),
            )
            if isinstance(page.outcome, Busy):
                self._pause(page.account, min(page.outcome.retry_after or BUSY_PAUSE, self._policy.greatest_gap))

    async def _bring_forward(self) -> None:
        """Make tasks due now if their next poll is too far ahead, because it was planned while the clock was ahead.

        This runs after the clock was set back, and rarely otherwise, because no process may have run at that time.
        """
        at, set_back = self._monotonic(), self._poller.clock_settings.times_set_back()
        if set_back == self._set_back and at - self._looked_ahead_at < LOOK_AHEAD.total_seconds():
            return
        policy, habits = self._policy, self._learner.habits
        if set_back != self._set_back:
            # A task that ran while the clock was set seems to have run for as long as the clock was set by.
            habits = replace(habits, run_times={})
        rescheduled = await self._store.due_tasks.bring_forward(
            now=self._clock(),
            furthest=schedule.furthest(policy, habits),
            expired=policy.expired_gap + policy.greatest_gap,
        )
        self._looked_ahead_at, self._set_back = at, set_back
        if rescheduled:
            log.warning(
                "%d polls were planned too far ahead, probably because a clock was set back. They are due now",
                rescheduled,
            )

    async def _poll_account(self, account: Account, tasks: Sequence[Task], counts: Counts) -> None:
        proving = await self._poller.lookups_to_prove(account, tasks)
        ready = [task for task in tasks if task.provider_task_id is not None and task not in proving]
        others = [task for task in tasks if task.provider_task_id is None]
        # A server that answers every batch with unreadable data may still answer single polls.
        in_batches = self._silent[account.id] < SILENCES and await self._poller.batches(account)
        self._silent[account.id] %= SILENCES
        if len(ready) > 1 and in_batches:
            size = account.provider.capabilities.batch_size
            chunks = [ready[start : start + size] for start in range(0, len(ready), size)]
            left = await gathered(self._poll_many(account, chunk, counts) for chunk in chunks)
            ready = [task for rest in left for task in rest]
        await gathered(self._guarded(account, task, counts) for task in [*ready, *others])
        await gathered(self._guarded(account, task, counts, prove=True) for task in proving)

    async def _poll_many(self, account: Account, tasks: Sequence[Task], counts: Counts) -> Sequence[Task]:
        """Poll several tasks with one request. Return the tasks that the reply does not contain, for single polls."""
        until = self._blocked(account)
        if until is not None:
            for task in tasks:
                await self._postpone(account, task, until, counts)
            return []
        counts.requests += 1
        polled_at = self._clock()
        outcome = await self._poller.query_many(account, [task.provider_task_id or "" for task in tasks])
        self._silent[account.id] = self._silent[account.id] + 1 if isinstance(outcome, Unknown) else 0
        if isinstance(outcome, Sequence):
            found = {one.report.provider_task_id: one for one in outcome}
            reported = [task for task in tasks if task.provider_task_id in found]
            await gathered(
                (self._record(account, task, found[task.provider_task_id], polled_at, counts) for task in reported),
                at_once=len(reported),
            )
            return [task for task in tasks if task.provider_task_id not in found]
        if isinstance(outcome, Unknown):
            await gathered(
                (self._record(account, task, outcome, polled_at, counts) for task in tasks), at_once=len(tasks)
            )
            return []
        if isinstance(outcome, Busy):
            self._pause(account, min(outcome.retry_after or BUSY_PAUSE, self._policy.greatest_gap))
        # The whole batch was refused. The next single polls will show the reason.
        return tasks

    async def _record(
        self, account: Account, task: Task, outcome: Found | Unknown, polled_at: datetime, counts: Counts
    ) -> None:
        try:
            answer = await self._poller.record(Poll(task=task, account=account, at=polled_at), outcome)
        except HomingError as error:
            counts.failed += 1
            log.warning("task %s: %s", task.id, error.detail)
        else:
            self._count(task, answer, counts)

    async def _guarded(self, account: Account, task: Task, counts: Counts, *, prove: bool = False) -> None:
        """Poll one task. An error affects no other task."""
        until = self._blocked(account)
        if until is not None:
            await self._postpone(account, task, until, counts)
            return
        try:
            await self._look_after(account, task, counts, prove=prove)
        except HomingError as error:
            counts.failed += 1
            log.warning("task %s: %s", task.id, error.detail)

    async def _look_after(self, account: Account, task: Task, counts: Counts, *, prove: bool) -> None:
        if task.id in self._submission.sending:
            # This process is submitting the task now, even if its lease looks expired. A new lease would last too long.
            await self._postpone(account, task, self._clock() + self._policy.first_lookup, counts)
            return
        if task.status is Status.PENDING and task.origin == ORIGIN_SUBMIT:
            step = recovery.next_step(task, policy=self._policy)
            if step is Step.SUBMIT_AGAIN and self._clock() < task.deadline_at:
                counts.requests += 1
                counts.submitted_again += 1
                await self._submission.again(task, account)
                return
            if step is not Step.LOOK_UP:
                await self._submission.give_up(task, "the provider never accepted it")
                counts.settled += 1
                return
        # A lookup without a result is followed by a poll, so both count in the budget.
        budget = self._budgets.of(account.id)
        prove = prove and budget.take(self._clock()) is None
        counts.requests += 1
        poll = self._poller.prove_lookups if prove else self._poller.poll
        answer = await poll(task, account)
        counts.requests += answer.requests - 1
        if not prove:
            budget.spend(answer.requests - 1)
        self._count(task, answer, counts)
        if answer.credential_refused:
            self._refused[account.id].add(task.id)
            if len(self._refused[account.id]) < REFUSALS:
                # For one task, the credential may lack access. Several refusals in a row mean a bad credential.
                return
        else:
            self._refused[account.id].clear()
        if answer.pause is not None:
            self._pause(account, answer.pause)

    async def _postpone(self, account: Account, task: Task, until: datetime, counts: Counts) -> None:
        try:
            await self._poller.postpone(task, account, "waiting for the provider", until=until)
            counts.postponed += 1
        except HomingError as error:
            counts.failed += 1
            log.warning("task %s: %s", task.id, error.detail)

    def _pause(self, account: Account, wait: timedelta) -> None:
        self._paused[account.id] = self._monotonic() + wait.total_seconds()
        self._poller.watch.paused(account, self._clock() + wait)

    def _blocked(self, account: Account) -> datetime | None:
        """Take a request from the budget, or return the time until which the account may not be polled."""
        now = self._clock()
        if (paused := self._paused_until(account, now)) is not None:
            return paused
        wait = self._budgets.of(account.id).take(now, beside_lists=self._lists.reads(account))
        if wait is None:
            return None
        self._poller.watch.out_of_budget(account)
        return now + wait

    def _paused_until(self, account: Account, now: datetime) -> datetime | None:
        left = self._paused.get(account.id, float("-inf")) - self._monotonic()
        return now + timedelta(seconds=left) if left > 0 else None

    def _count(self, before: Task, answer: PollAnswer, counts: Counts) -> None:
        after = answer.task
        if after.status is Status.EXPIRED and before.status is not Status.EXPIRED:
            counts.expired += 1
        elif after.status in SETTLED and before.status not in SETTLED:
            counts.settled += 1
        elif after.version != before.version:
            counts.changed += 1
        else:
            counts.unchanged += 1

    async def _orphans(self) -> Sequence[Orphan]:
        """Take due orphans from the other rounds and processes, no more than the budget has requests for."""
        taken: list[Orphan] = []
        now = self._clock()
        until = now + (KINDS_PER_CHECK + 2) * self._policy.query
        for orphan in await self._store.orphans.due(now=now, limit=AT_ONCE):
            account = self._accounts.get(orphan.provider)
            if account is None or self._paused_until(account, now) is not None:
                continue
            budget = self._budgets.of(account.id)
            if not budget.has_for_orphan(now):
                continue
            if await self._store.orphans.take(orphan.id, now=now, until=until) and budget.take_for_orphan(now):
                taken.append(orphan)
        return taken

    async def _check_orphan(self, orphan: Orphan, counts: Counts) -> None:
        account = self._accounts[orphan.provider]
        counts.orphans_checked += 1
        counts.requests += 1
        try:
            counts.orphans_adopted += await self._discovery.check(account, orphan)
        except HomingError as error:
            counts.failed += 1
            log.warning("orphan %d: %s", orphan.id, error.detail)
