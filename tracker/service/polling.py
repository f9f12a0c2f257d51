"""Polls the provider about one task or many, and records the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

import msgspec

from tracker.model.changes import Seen
from tracker.model.clock import ClockSettings, Monotonic
from tracker.model.task import Alarm, IdSource, Observation, Source, Status, Task, Trust, Verdict
from tracker.providers.base import (
    Account,
    BadCredential,
    Busy,
    Found,
    Missing,
    PollOutcome,
    Unknown,
    Unsupported,
)
from tracker.providers.masking import excerpt, masked
from tracker.rules import recovery
from tracker.rules.identity import ReplyTo
from tracker.rules.outcomes import Rules
from tracker.rules.polls import Failure, PollResult, RecordPoll
from tracker.rules.recovery import Denial
from tracker.service.account_watch import CREDENTIAL_REFUSED
from tracker.service.callback_urls import CallbackUrls
from tracker.service.list_search import ListSearch, is_searchable, next_search_at
from tracker.service.lookups import Lookups, can_prove, lookup_seen, takes_external_id
from tracker.service.provider_queries import ProviderQueries
from tracker.service.recorder import Recorder
from tracker.storage.store import Store
from tracker.transport import Sender

BUSY_PAUSE: Final = timedelta(seconds=5)
NO_ID: Final = "there is no ID to poll by: waiting for its callback, or for its ID at the provider"
CREDENTIAL_PAUSE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollAnswer:
    """The result of polling one task, and the number of requests.

    ``pause`` is how long Homing should send nothing for its account.
    """

    task: Task
    verdict: Verdict
    why: str
    pause: timedelta | None = None
    credential_refused: bool = False
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One poll of a task: ``reply_to`` says by which ID, ``at`` when.

    ``candidate_denied`` means that a query by the candidate ID found no task. ``again_at`` is the time of the next
    search. ``seen`` holds the observed capabilities of the URL.
    """

    task: Task
    account: Account
    at: datetime
    reply_to: ReplyTo = ReplyTo.PROVIDER_ID
    candidate_denied: bool = False
    again_at: datetime | None = None
    seen: tuple[Seen, ...] = ()


class Poller(ProviderQueries):
    """Polls the provider. Polling and recording are separate, so that one reply can update many tasks."""

    def __init__(
        self,
        store: Store,
        *,
        recorder: Recorder,
        transport: Sender,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
        urls: CallbackUrls,
    ) -> None:
        super().__init__(store, recorder=recorder, transport=transport, time=rules.policy.query, clock=clock)
        self._urls = urls
        self._list_search = ListSearch(self, urls, rules.policy, clock)
        self.clock_settings = ClockSettings(clock, monotonic)
        self._rules = rules
        self.lookups = Lookups(store=store, policy=rules.policy, clock=clock)

    async def lookups_to_prove(self, account: Account, tasks: Sequence[Task]) -> Sequence[Task]:
        """Choose the tasks whose poll also tests lookups. There is rarely any, and at most one per kind.

        If a submission needs recovery and none of ``tasks`` can test it, choose the newest task that the provider has.
        """
        chosen = {task.kind: task for task in tasks if can_prove(task)}
        proving = [task for kind, task in chosen.items() if await self.lookups.due(account, kind, "ask")]
        lost = {task.kind for task in tasks if task.provider_task_id is None and task.attempts > 0}
        for kind in lost - chosen.keys():
            if await self.lookups.due(account, kind, "search"):
                latest = await self._store.tasks.latest_accepted(
                    provider=account.provider.name, account=account.name, kind=kind
                )
                proving += [] if latest is None else [latest]
        return proving

    async def prove_lookups(self, task: Task, account: Account) -> PollAnswer:
        """Poll an accepted task by its external ID, and record whether the lookup works.

        If it does not, Homing polls by the provider ID, with one more request.
        """
        poll = Poll(task=task, account=account, at=self._clock())
        assert task.sent_external_id is not None
        assert task.provider_task_id is not None
        outcome = await self.query(account, task.kind, task.sent_external_id, external=True)
        if isinstance(outcome, Found) and outcome.report.provider_task_id == task.provider_task_id:
            seen = (lookup_seen(account, task.kind, poll.at, found=True),)
            return await self.record(replace(poll, seen=seen), outcome)
        if isinstance(outcome, Busy | BadCredential):
            return await self.record(poll, outcome)
        denied = isinstance(outcome, Missing)
        outcome = await self.query(account, task.kind, task.provider_task_id)
        if denied and isinstance(outcome, Found):
            poll = replace(poll, seen=(lookup_seen(account, task.kind, poll.at, found=False),))
        # If neither ID finds the task, the provider may only be late.
        return replace(await self.record(poll, outcome), requests=2)

    async def poll(self, task: Task, account: Account) -> PollAnswer:
        """Poll one task by the best ID that it has, and record the answer."""
        poll = Poll(task=task, account=account, at=self._clock())
        own = task.provider_task_id or task.sent_external_id
        outcome: PollOutcome | None = None
        if own is not None:
            outcome = await self.query(account, task.kind, own, external=task.provider_task_id is None)
        if isinstance(outcome, Found | Busy | BadCredential) or not await self._may_guess(task, account, poll.at):
            if own is None and self._is_searchable(poll):
                return await self._searched(poll)
            return await self._record_own(poll, outcome)
        assert task.candidate_id is not None
        guess = await self.query(account, task.kind, task.candidate_id)
        answer = await self._guessed(poll, outcome, guess)
        return answer if outcome is None else replace(answer, requests=2)

    async def _guessed(self, poll: Poll, outcome: PollOutcome | None, guess: PollOutcome) -> PollAnswer:
        """Record the result of a poll by the candidate ID. ``outcome`` is the result of the task's own ID."""
        attached = poll.task.unproven_id_from is IdSource.OWNER
        # The provider may know an attached task only later, so the ID that its owner attached is kept.
        if isinstance(guess, Found) or (attached and outcome is None):
            return await self.record(replace(poll, reply_to=ReplyTo.CANDIDATE), guess)
        if isinstance(guess, Busy | BadCredential):
            # It concerns the whole account.
            return await self.record(poll, guess)
        # Any other answer about a candidate ID does not concern this task.
        poll = replace(poll, candidate_denied=isinstance(guess, Missing) and not attached)
        if poll.candidate_denied and outcome is None and self._is_searchable(poll):
            answer = await self._searched(poll)
            return replace(answer, requests=answer.requests + 1)
        return await self._record_own(poll, outcome)

    def _is_searchable(self, poll: Poll) -> bool:
        return is_searchable(poll.task, poll.account, poll.at, self._rules.policy)

    async def _may_guess(self, task: Task, account: Account, now: datetime) -> bool:
        """Return whether Homing may poll by the candidate ID.

        Homing does not poll by it during a submission, because the reply has the ID. It also does not if the provider
        finds tasks by external ID. That answer is better, and an unverified callback may name another task. Homing
        always polls an ID that the task's owner attached.
        """
        if task.candidate_id is None or task.provider_task_id is not None:
            return False
        if recovery.may_be_submitting(task, now, self._rules.policy):
            return False
        if task.unproven_id_from is IdSource.OWNER:
            return True
        if task.sent_external_id is None and takes_external_id(account, task.kind):
            # A refused submission has given its external ID away. A callback cannot bring it back.
            return task.attempts == 0
        return not await self.lookups.proven(account, task.kind)

    async def _searched(self, poll: Poll) -> PollAnswer:
        """Search the provider's list for a submission with a lost reply."""
        outcome, requests = await self._list_search.search(poll.task, poll.account)
        if outcome is None:
            again_at = next_search_at(poll.task, poll.at, self._rules.policy)
            answer = await self._record_own(replace(poll, again_at=again_at), None)
        else:
            answer = await self.record(poll, outcome)
        return replace(answer, requests=requests)

    async def _record_own(self, poll: Poll, outcome: PollOutcome | None) -> PollAnswer:
        """Record the outcome of a poll by the task's own ID, None if it has none."""
        task = poll.task
        if outcome is not None:
            return await self.record(
                poll if task.provider_task_id is not None else _by_external_id(poll, outcome), outcome
            )
        denied = poll.candidate_denied
        # A submission with a lost reply. Nothing will ever show that the provider does not have the task.
        submitting = recovery.may_be_submitting(task, poll.at, self._rules.policy)
        lost = task.attempts > 0 and not submitting
        unresolved = lost and task.status is Status.PENDING and task.reason != recovery.UNRESOLVED
        unanswered = PollResult(
            why="the provider does not know the ID of its callback" if denied else NO_ID,
            sent=denied or poll.again_at is not None,
            again_at=task.attempt_deadline_at if submitting else poll.again_at,
            candidate_denied=denied,
            denial=Denial(at=poll.at, proven=False) if lost else None,
            alarm=Alarm.UNRESOLVED if unresolved else None,
        )
        return await self._record(poll, unanswered)

    async def look_up(self, task: Task, account: Account, *, within: timedelta) -> PollAnswer | None:
        """Look up a submitted task by its external ID, once. Record it if it is found."""
        if task.sent_external_id is None:
            return None
        poll = Poll(task=task, account=account, at=self._clock())
        outcome = await self.query(account, task.kind, task.sent_external_id, external=True, within=within)
        return await self.record(_by_external_id(poll, outcome), outcome) if isinstance(outcome, Found) else None

    async def record(self, poll: Poll, outcome: PollOutcome) -> PollAnswer:
        """Record one outcome, and the observed capabilities of the URL.

        Raises NotFound if the task no longer exists.
        """
        account = poll.account
        pause: timedelta | None = None
        match outcome:
            case Found():
                observation = Observation(
                    source=Source.POLL,
                    trust=Trust.PROVIDER,
                    report=outcome.report,
                    at=self._clock(),
                    body=outcome.body,
                )
                result = PollResult(
                    observation=observation,
                    reply_to=poll.reply_to,
                    addressee=self.addressee(account, outcome),
                    seen=poll.seen,
                )
            case Missing():
                result = await self._missing(poll, outcome)
            case Busy():
                # A Retry-After of a day must not stop all polls for a day.
                pause = min(outcome.retry_after or BUSY_PAUSE, self._rules.policy.greatest_gap)
                result = PollResult(why=f"busy: {masked(outcome.message, account.credential)}")
            case BadCredential():
                pause = CREDENTIAL_PAUSE
                failure = _failure(account, "credential", f"{outcome.message} ({outcome.code})")
                result = PollResult(why=CREDENTIAL_REFUSED, alarm=Alarm.CREDENTIAL, failure=failure)
            case Unknown() if outcome.unreadable:
                why = f"the answer cannot be read: {outcome.why}"
                failure = _failure(account, "unreadable", outcome.excerpt, verdict=Verdict.UNREADABLE)
                result = PollResult(why=why, candidate_denied=poll.candidate_denied, failure=failure)
            case Unknown() | Unsupported():
                of_another = isinstance(outcome, Unknown) and outcome.mismatch
                alarm = Alarm.MISMATCH if of_another else None
                failure = _failure(account, "mismatch" if of_another else "silence", "")
                result = PollResult(
                    why=outcome.why, candidate_denied=poll.candidate_denied, alarm=alarm, failure=failure
                )
            case _:
                assert_never(outcome)
        return await self._record(poll, result, pause=pause)

    def addressee(self, account: Account, found: Found) -> str | None:
        """Return the ID of Homing's task whose own callback URL the provider has for the task, or None."""
        return self._urls.task_at(account.provider.name, found.callback_url)

    async def postpone(self, task: Task, account: Account, why: str, *, until: datetime) -> PollAnswer:
        """Release a claimed task without a poll."""
        now = self._clock()
        poll = Poll(task=task, account=account, at=now)
        return await self._record(poll, PollResult(why=why, sent=False), pause=until - now)

    async def _record(self, poll: Poll, result: PollResult, *, pause: timedelta | None = None) -> PollAnswer:
        now = self._clock() if result.observation is None else result.observation.at
        if pause is not None:
            result = msgspec.structs.replace(result, again_at=now + pause)
        after, verdict, why = await self._recorder.apply(
            RecordPoll(
                polled=poll.task,
                result=result,
                now=now,
                lifetime=poll.account.provider.capabilities.result_lifetime,
                rules=self._rules,
            )
        )
        refused = result.alarm is Alarm.CREDENTIAL
        return PollAnswer(task=after, verdict=verdict, why=why, pause=pause, credential_refused=refused)

    async def _missing(self, poll: Poll, missing: Missing) -> PollResult:
        task, account, policy = poll.task, poll.account, self._rules.policy
        # If the clock may just have been set, the age of an attempt is unknown. Then no denial counts.
        steady = self.clock_settings.steady_for(policy.absence_wait)
        proven = await self.lookups.proven(account, task.kind)
        ours = task.provider_task_id is None and task.attempts > 0 and task.status is Status.PENDING
        # A provider that refused the external ID as taken has the task, even if it denies that now.
        absent = proven and task.duplicate_at is None
        unresolved = ours and not absent and task.reason != recovery.UNRESOLVED
        hidden = ours and task.duplicate_at is not None and recovery.is_over(task, poll.at, policy)
        return PollResult(
            why=f"the provider says: {missing.message}",
            again_at=self._clock() + policy.absence_gap if ours and absent else None,
            denial=Denial(at=poll.at, proven=proven, steady=steady) if ours else None,
            alarm=Alarm.UNRESOLVED if unresolved else None,
            candidate_denied=poll.candidate_denied,
            # The task exists, but the lookup cannot find it. So denials prove nothing here, for any task.
            seen=(lookup_seen(account, task.kind, poll.at, found=False),) if hidden else (),
            failure=_failure(account, "missing", ""),
        )


def _by_external_id(poll: Poll, outcome: PollOutcome) -> Poll:
    """Mark a poll as a lookup by external ID, and record whether lookups work.

    They work if a query by an external ID that Homing sent returned that very task.
    """
    poll = replace(poll, reply_to=ReplyTo.EXTERNAL_ID)
    task = poll.task
    if not isinstance(outcome, Found) or task.attempts == 0 or outcome.report.external_id != task.sent_external_id:
        return poll
    return replace(poll, seen=(lookup_seen(poll.account, task.kind, poll.at, found=True),))


def _failure(account: Account, sort: str, text: str, *, verdict: Verdict = Verdict.UNANSWERED) -> Failure:
    """Return the history entry of a poll without an answer. Credentials in ``text`` are masked."""
    return Failure(sort=sort, verdict=verdict, body=excerpt(text, account.credential).encode())
