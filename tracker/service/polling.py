"""Asking the provider about tasks: one or many at a time, and recording what it says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar, assert_never

from tracker.errors import NotSent, ReplyLost
from tracker.model.changes import Key, Seen, Work, by_id, by_provider_id, by_sent_id
from tracker.model.clock import ClockSettings, Monotonic
from tracker.model.task import Alarm, IdSource, Observation, Source, Status, Task, Trust, Verdict
from tracker.providers.base import (
    Account,
    BadCredential,
    Busy,
    Call,
    Found,
    ManyOutcome,
    Missing,
    PollOutcome,
    Reply,
    Unknown,
    Unsupported,
)
from tracker.providers.masking import excerpt, masked
from tracker.rules import callbacks, polls, recovery
from tracker.rules.identity import Asked
from tracker.rules.outcomes import Rules
from tracker.rules.polls import Failure
from tracker.service.account_watch import CREDENTIAL_REFUSED, AccountWatch
from tracker.service.lookups import TRUSTED_FOR, Lookups, can_prove, lookup_seen
from tracker.service.recorder import Recorder
from tracker.storage.store import Store
from tracker.transport import Sender

Outcome = TypeVar("Outcome", PollOutcome, ManyOutcome)

BUSY_PAUSE: Final = timedelta(seconds=5)
CREDENTIAL_PAUSE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking about one task, and how many requests it took.

    ``pause`` is how long its account should be left alone.
    """

    task: Task
    verdict: Verdict
    why: str
    pause: timedelta | None = None
    credential_refused: bool = False
    requests: int = 1


class Questions:
    """The provider, asked. Recording and asking are apart, so that one reply can settle many tasks."""

    def __init__(
        self,
        *,
        store: Store,
        recorder: Recorder,
        transport: Sender,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
    ) -> None:
        self.clock_settings = ClockSettings(clock, monotonic)
        self._store = store
        self._recorder = recorder
        self._transport = transport
        self.watch = AccountWatch(store=store, recorder=recorder, clock=clock)
        self._rules = rules
        self._clock = clock
        self.lookups = Lookups(store=store, policy=rules.policy, clock=clock)

    async def lookups_to_prove(self, account: Account, tasks: Sequence[Task]) -> Sequence[Task]:
        """Choose the tasks whose poll shall also find out whether lookups work: rarely any, and one for each kind.

        Where a submit is to be recovered and none of ``tasks`` would do, that is the newest one that the provider has.
        """
        chosen = {task.kind: task for task in tasks if can_prove(task)}
        proving = [task for kind, task in chosen.items() if await self.lookups.due(account, kind, "ask")]
        lost = {task.kind for task in tasks if task.provider_task_id is None and task.attempts > 0}
        for kind in lost - chosen.keys():
            if await self.lookups.due(account, kind, "search"):
                latest = await self._store.latest_accepted(
                    provider=account.provider.name, account=account.name, kind=kind
                )
                proving += [] if latest is None else [latest]
        return proving

    async def prove_lookups(self, task: Task, account: Account) -> Answer:
        """Poll a task that the provider has by the external id that we gave it, and remember whether that works.

        Where it does not, the task is asked about by the provider's id: one more request.
        """
        asked_at = self._clock()
        assert task.sent_external_id is not None
        assert task.provider_task_id is not None
        outcome = await self.query(account, task.kind, task.sent_external_id, external=True)
        if isinstance(outcome, Found) and outcome.claim.provider_task_id == task.provider_task_id:
            seen = (lookup_seen(account, task.kind, asked_at, found=True),)
            return await self.record(task, account, outcome, asked_at=asked_at, seen=seen)
        if isinstance(outcome, Busy | BadCredential):
            return await self.record(task, account, outcome, asked_at=asked_at)
        denied = isinstance(outcome, Missing)
        outcome = await self.query(account, task.kind, task.provider_task_id)
        if not denied or not isinstance(outcome, Found):
            # Where it is nowhere, the provider may just be late.
            return replace(await self.record(task, account, outcome, asked_at=asked_at), requests=2)
        seen = (lookup_seen(account, task.kind, asked_at, found=False),)
        return replace(await self.record(task, account, outcome, asked_at=asked_at, seen=seen), requests=2)

    async def ask(self, task: Task, account: Account) -> Answer:
        """Ask about one task, by the best id there is, and record the answer."""
        asked_at = self._clock()
        own = task.provider_task_id or task.sent_external_id
        outcome: PollOutcome | None = None
        if own is not None:
            outcome = await self.query(account, task.kind, own, external=task.provider_task_id is None)
        if isinstance(outcome, Found | Busy | BadCredential) or not await self._may_guess(task, account, asked_at):
            return await self._told(task, account, outcome, asked_at=asked_at)
        assert task.candidate_id is not None
        guess = await self.query(account, task.kind, task.candidate_id)
        answer = await self._guessed(task, account, outcome, guess, asked_at=asked_at)
        return answer if outcome is None else replace(answer, requests=2)

    async def _guessed(
        self, task: Task, account: Account, outcome: PollOutcome | None, guess: PollOutcome, *, asked_at: datetime
    ) -> Answer:
        """Record what came of asking by the id that somebody named; ``outcome`` is that of the task's own id."""
        if isinstance(guess, Found):
            return await self.record(task, account, guess, asked_at=asked_at, asked=Asked.CANDIDATE)
        attached = task.unproven_id_from is IdSource.OWNER
        if attached and outcome is None:
            # The provider may only be late to know the task: its owner's word is kept.
            return await self.record(task, account, guess, asked_at=asked_at, asked=Asked.CANDIDATE)
        # What else the provider says of a guessed id tells nothing about ours.
        forget = isinstance(guess, Missing) and not attached
        return await self._told(task, account, outcome, asked_at=asked_at, forget=forget)

    async def _may_guess(self, task: Task, account: Account, now: datetime) -> bool:
        """Return whether the id that a hint named may be asked about.

        Not while a submit is under way, whose reply tells the id; nor where the provider finds tasks by the external id
        that we gave: there its answer to that id is the better one, and a hint could only name somebody else's task.
        What the task's owner attached is asked about in any case.
        """
        if task.candidate_id is None or task.provider_task_id is not None:
            return False
        if task.attempt_deadline_at is not None and now < task.attempt_deadline_at:
            return False
        if task.unproven_id_from is IdSource.OWNER:
            return True
        return task.sent_external_id is None or not await self.lookups.proven(account, task.kind)

    async def _told(
        self, task: Task, account: Account, outcome: PollOutcome | None, *, asked_at: datetime, forget: bool = False
    ) -> Answer:
        if outcome is not None:
            by_external_id = task.provider_task_id is None
            seen = self._found_by_external_id(task, account, outcome, asked_at) if by_external_id else ()
            asked = Asked.EXTERNAL_ID if by_external_id else Asked.PROVIDER_ID
            return await self.record(task, account, outcome, asked_at=asked_at, asked=asked, forget=forget, seen=seen)
        return await self._unsettled(
            task,
            "there is no id to ask by: waiting for its callback, or for its id at the provider",
            account.provider.capabilities.result_lifetime,
            again_at=task.deadline_at,
            asked=forget,
            forget=forget,
        )

    async def look_up(self, task: Task, account: Account, *, within: timedelta) -> Answer | None:
        """Look a submitted task up by its external id, once, and record it if it is found."""
        if task.sent_external_id is None:
            return None
        asked_at = self._clock()
        outcome = await self.query(account, task.kind, task.sent_external_id, external=True, within=within)
        if not isinstance(outcome, Found):
            return None
        seen = self._found_by_external_id(task, account, outcome, asked_at)
        return await self.record(task, account, outcome, asked_at=asked_at, asked=Asked.EXTERNAL_ID, seen=seen)

    @staticmethod
    def _found_by_external_id(
        task: Task, account: Account, outcome: PollOutcome, asked_at: datetime
    ) -> tuple[Seen, ...]:
        """Record that lookups work, if this query by an external id that Homing sent returned that very task."""
        if not isinstance(outcome, Found) or task.attempts == 0 or outcome.claim.external_id != task.sent_external_id:
            return ()
        return (lookup_seen(account, task.kind, asked_at, found=True),)

    async def query(
        self,
        account: Account,
        kind: str,
        task_id: str,
        *,
        external: bool = False,
        within: timedelta | None = None,
    ) -> PollOutcome:
        """Ask the single query; every failure is an outcome. ``external`` says that the id is one that we gave."""
        call = account.provider.query(kind, task_id)
        time = self._rules.policy.query if within is None else min(within, self._rules.policy.query)
        read = partial(account.provider.read_query, task_id=task_id, external=external)
        return await self._answer(account, call, read, within=time)

    async def query_many(self, account: Account, tasks: Sequence[Task]) -> ManyOutcome:
        """Ask about many tasks with one call, by the provider's ids; every failure is an outcome."""
        call = account.provider.query_many([task.provider_task_id or "" for task in tasks])
        outcome = await self._answer(account, call, account.provider.read_query_many, within=self._rules.policy.query)
        if isinstance(outcome, Unsupported):
            await self._see(account, polls.BATCH_QUERY, present=False)
        return outcome

    async def list_page(self, account: Account, kind: str, page: int) -> ManyOutcome:
        """Ask for one page of the account's tasks."""
        call = account.provider.list_page(kind, page)
        return await self._answer(account, call, account.provider.read_list, within=self._rules.policy.query)

    async def _answer(
        self, account: Account, call: Call, read: Callable[[Reply], Outcome], *, within: timedelta
    ) -> Outcome | Unknown:
        """Send a question and read its answer; the watch over the account takes note of it."""
        outcome: Outcome | Unknown
        try:
            outcome = read(await self._transport.send(account, call, now=self._clock(), within=within))
        except (NotSent, ReplyLost) as error:
            outcome = Unknown(why=error.detail)
        self.watch.answered(account, outcome)
        return outcome

    async def batches(self, account: Account) -> bool:
        """Return whether the address takes many ids in one query, as far as it is known."""
        if account.provider.capabilities.batch_size == 0:
            return False
        seen = await self._store.capability(account.base_url, "", polls.BATCH_QUERY)
        return seen is None or seen[0] or self._clock() - seen[1] > TRUSTED_FOR

    async def record(
        self,
        task: Task,
        account: Account,
        outcome: PollOutcome,
        *,
        asked_at: datetime,
        asked: Asked = Asked.PROVIDER_ID,
        forget: bool = False,
        seen: tuple[Seen, ...] = (),
    ) -> Answer:
        """Record one outcome, and what was seen of the address. A task that is gone meanwhile raises NotFound."""
        lifetime = account.provider.capabilities.result_lifetime
        match outcome:
            case Found():
                return await self._found(task, account, outcome, asked=asked, seen=seen)
            case Missing():
                return await self._missing(task, account, outcome, asked_at=asked_at, forget=forget)
            case Busy():
                # A provider that asks for a day must not silence the tasks of a day.
                pause = min(outcome.retry_after or BUSY_PAUSE, self._rules.policy.greatest_gap)
                return await self._unsettled(
                    task, f"busy: {masked(outcome.message, account.credential)}", lifetime, pause=pause
                )
            case BadCredential():
                return await self._unsettled(
                    task,
                    CREDENTIAL_REFUSED,
                    lifetime,
                    pause=CREDENTIAL_PAUSE,
                    alarm=Alarm.CREDENTIAL,
                    failure=self._failure(account, "credential", f"{outcome.message} ({outcome.code})"),
                )
            case Unknown() if outcome.unreadable:
                why = f"the answer cannot be read: {outcome.why}"
                failure = self._failure(account, "unreadable", outcome.excerpt, verdict=Verdict.UNREADABLE)
                return await self._unsettled(task, why, lifetime, forget=forget, failure=failure)
            case Unknown() | Unsupported():
                of_another = isinstance(outcome, Unknown) and outcome.mismatch
                alarm = Alarm.MISMATCH if of_another else None
                failure = self._failure(account, "mismatch" if of_another else "silence", "")
                return await self._unsettled(task, outcome.why, lifetime, forget=forget, alarm=alarm, failure=failure)
            case _:
                assert_never(outcome)

    async def postpone(self, task: Task, account: Account, why: str, *, until: datetime) -> Answer:
        """Release a claimed task without asking."""
        lifetime = account.provider.capabilities.result_lifetime
        return await self._unsettled(task, why, lifetime, pause=until - self._clock(), asked=False)

    def _failure(self, account: Account, sort: str, text: str, *, verdict: Verdict = Verdict.UNANSWERED) -> Failure:
        """Make what the history says of a question without an answer. Credentials in ``text`` are masked."""
        return Failure(sort=sort, verdict=verdict, body=excerpt(text, account.credential).encode())

    async def _found(
        self, task: Task, account: Account, found: Found, *, asked: Asked, seen: tuple[Seen, ...]
    ) -> Answer:
        now = self._clock()
        claim = found.claim
        keys = {by_id(task.id)}
        if claim.provider_task_id is not None:
            keys.add(by_provider_id(task.provider, task.account, claim.provider_task_id))
        if claim.external_id not in {None, task.sent_external_id}:
            keys.add(by_sent_id(task.provider, task.account, claim.external_id))
        observation = Observation(source=Source.POLL, trust=Trust.PROVIDER, claim=claim, at=now, body=found.body)
        decide = partial(
            polls.polled,
            task_id=task.id,
            observation=observation,
            asked=asked,
            lifetime=account.provider.capabilities.result_lifetime,
            seen=seen,
            rules=self._rules,
        )
        after, verdict, why = await self._recorder.apply(Work(keys=frozenset(keys), decide=decide))
        return Answer(task=after, verdict=verdict, why=why)

    async def _missing(
        self, task: Task, account: Account, missing: Missing, *, asked_at: datetime, forget: bool
    ) -> Answer:
        policy = self._rules.policy
        # While the clock may just have been set, nobody knows how long ago an attempt ended: no denial counts.
        steady = self.clock_settings.steady_for(policy.absence_wait)
        proven = await self.lookups.proven(account, task.kind)
        lifetime = account.provider.capabilities.result_lifetime
        ours = task.provider_task_id is None and task.attempts > 0 and task.status is Status.PENDING
        # A provider that refused our id as taken has the task, whatever it says of it now.
        absent = proven and task.duplicate_at is None
        again_at = self._clock() + policy.absence_gap if ours and absent else None
        unresolved = ours and not absent and task.reason != recovery.UNRESOLVED
        hidden = ours and task.duplicate_at is not None and recovery.is_over(task, asked_at, policy)
        return await self._unsettled(
            task,
            f"the provider says: {missing.message}",
            lifetime,
            again_at=again_at,
            reconsider=partial(recovery.not_found, now=asked_at, proven=proven, steady=steady, policy=policy)
            if ours
            else None,
            alarm=Alarm.UNRESOLVED if unresolved else None,
            forget=forget,
            # It is there and cannot be found: denials prove nothing here, for no task.
            seen=(lookup_seen(account, task.kind, asked_at, found=False),) if hidden else (),
            failure=self._failure(account, "missing", ""),
        )

    async def _unsettled(
        self,
        task: Task,
        why: str,
        lifetime: timedelta,
        *,
        again_at: datetime | None = None,
        pause: timedelta | None = None,
        reconsider: Callable[[Task], Task] | None = None,
        alarm: Alarm | None = None,
        asked: bool = True,
        forget: bool = False,
        seen: tuple[Seen, ...] = (),
        failure: Failure | None = None,
    ) -> Answer:
        now = self._clock()
        decide = partial(
            polls.unsettled,
            task_id=task.id,
            why=why,
            now=now,
            lifetime=lifetime,
            rules=self._rules,
            again_at=now + pause if pause is not None else again_at,
            reconsider=reconsider,
            alarm=alarm,
            asked=asked,
            forget=forget,
            seen=seen,
            failure=failure,
        )
        keys: frozenset[Key] = frozenset({by_id(task.id)})
        after, verdict, reason = await self._recorder.apply(Work(keys=keys, decide=decide))
        refused = alarm is Alarm.CREDENTIAL
        return Answer(task=after, verdict=verdict, why=reason, pause=pause, credential_refused=refused)

    async def _see(self, account: Account, name: str, *, present: bool) -> None:
        seen = Seen(base_url=account.base_url, kind="", name=name, present=present, at=self._clock())
        await self._recorder.apply(Work(keys=frozenset(), decide=partial(callbacks.noticed, seen=seen)))
