"""Submits tasks so that the provider never charges twice.

The row and its attempt are committed before the call. If the provider may have the task, the client gets success, and
recovery resolves the open outcome. An error means that nothing was created.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

from tracker.errors import (
    CredentialRefused,
    HomingError,
    NotSent,
    ProviderUnavailable,
    Refused,
    ReplyLost,
    ServiceError,
)
from tracker.model.changes import Change, RaisedAlarm, RecordChange, Work
from tracker.model.clock import Deadline, Monotonic
from tracker.model.task import Alarm, ClientIdentity, Status, Task
from tracker.model.untrusted import read_object
from tracker.providers.base import (
    Accepted,
    Account,
    BadCredential,
    Busy,
    Credential,
    Duplicate,
    Kind,
    NoSuchCall,
    Order,
    Rejected,
    SubmitOutcome,
    Unknown,
)
from tracker.providers.masking import excerpt, masked
from tracker.rules import recovery, schedule
from tracker.rules.outcomes import Rules
from tracker.rules.submits import (
    BeginAttempt,
    GiveUp,
    RecordAccepted,
    RecordLate,
    RecordNotMade,
    RecordRefused,
    RecordUnanswered,
)
from tracker.service.account_watch import CREDENTIAL_REFUSED
from tracker.service.notes import Notes
from tracker.service.polling import CREDENTIAL_PAUSE, Poller
from tracker.service.recorder import Recorder
from tracker.storage.store import Store
from tracker.transport import Sender

log = logging.getLogger("homing.submission")

RETRY_LATER: Final = timedelta(seconds=5)
# A retry needs at least this share of the whole time. With less time, its own outcome could be lost.
LAST_CHANCE: Final = 0.2
Waiting = Busy | NotSent


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A complete create request of a client: the body, the account, and the IDs.

    With ``answered_later``, the client's answer is on its way only after ``Intake.answered``.
    """

    client: ClientIdentity
    account: Account
    kind: Kind
    order: Order
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    deadline: timedelta | None = None
    answered_later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One attempt to submit a task. ``task`` is its recorded row. The outcome is due by ``deadline``."""

    task: Task
    account: Account
    order: Order
    deadline: Deadline


class Submission:
    """The only code that sends create requests to providers."""

    def __init__(
        self,
        *,
        store: Store,
        recorder: Recorder,
        transport: Sender,
        poller: Poller,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
        callback_url_of: Callable[[Task], str | None],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self.notes = Notes(recorder)
        self._transport = transport
        self._poller = poller
        self._rules = rules
        self._clock = clock
        self.monotonic = monotonic
        self._callback_url_of = callback_url_of
        # By task ID: the first attempts that are under way in this process.
        self.sending: dict[str, asyncio.Task[Task]] = {}

    async def first(self, task: Task, request: SubmitRequest) -> Task:
        """Submit a task that was just recorded. It continues if the caller stops waiting. See ``_first``."""
        sending = asyncio.create_task(self._first(task, request))
        self.sending[task.id] = sending
        sending.add_done_callback(lambda _: self.sending.pop(task.id, None))
        return await sending

    async def _first(self, task: Task, request: SubmitRequest) -> Task:
        """Submit a task that was just recorded. Its client waits until the attempt's deadline.

        Returns the task once the provider has it or may have it. Raises Refused, CredentialRefused or
        ProviderUnavailable once it is certain, and recorded, that nothing was created. Any other failure is no error
        for the client, which gets success: the row stays pending, and recovery resolves it. If the database cannot take
        an outcome now, the outcome is kept and recorded as soon as possible.
        """
        assert task.attempt_deadline_at is not None
        deadline = Deadline(self.monotonic, task.attempt_deadline_at - self._clock())
        try:
            return await self._send(
                _Attempt(task=task, account=request.account, order=request.order, deadline=deadline)
            )
        except (Refused, CredentialRefused, ProviderUnavailable):
            raise
        except HomingError as error:
            log.warning("task %s: the outcome of its submission could not be recorded: %s", task.id, error.detail)
        except Exception as error:  # noqa: BLE001 - the provider may have the task in spite of any error
            log.error("task %s: its submission failed unexpectedly: %s", task.id, type(error).__name__)  # noqa: TRY400 - may hold a body
        return task

    async def _send(self, attempt: _Attempt) -> Task:
        task = attempt.task
        repeats = 0
        while True:
            outcome = await self._call(attempt)
            match outcome:
                case Accepted():
                    return await self._accepted(attempt, outcome)
                case Unknown() | Duplicate():
                    return await self._unanswered(attempt, outcome)
                case Rejected():
                    return await self._refused_to(task, outcome.message, _refusal(outcome, task))
                case BadCredential():
                    why = await self._wrongly_set(attempt, outcome)
                    error = CredentialRefused("credential refused: the operator sees an alarm", retry_after=RETRY_LATER)
                    return await self._refused_to(task, why, error)
                case NoSuchCall():
                    why = await self._wrongly_set(attempt, outcome)
                    absent = ProviderUnavailable(f"{why}. Nothing was created", retry_after=RETRY_LATER)
                    return await self._refused_to(task, why, absent)
                case Busy() | NotSent():
                    repeats += 1
                    delay = schedule.busy_delay(
                        repeats, policy=self._rules.policy, retry_after=outcome.retry_after, random=self._rules.random()
                    )
                    if delay + self._rules.policy.answer_within * LAST_CHANCE >= attempt.deadline.left:
                        return await self._refused_to(task, _why_waiting(outcome), _too_busy(outcome, task, delay))
                    await asyncio.sleep(delay.total_seconds())
                case _:
                    assert_never(outcome)

    async def again(self, task: Task, account: Account) -> Task:
        """Resubmit a task that the provider verifiably never had. Its client already got success."""
        body = await self._store.tasks.submission(task.id)
        if body is None:
            return await self.give_up(task, "its body is no longer kept")
        # An unreadable body must not use up an attempt.
        order = restored(task, body)
        now, within = self._clock(), self._rules.policy.attempt
        until, deadline = now + within, Deadline(self.monotonic, within)
        task = await self._recorder.apply(BeginAttempt(task_id=task.id, now=now, until=until, rules=self._rules))
        attempt = _Attempt(task=task, account=account, order=order, deadline=deadline)
        outcome = await self._call(attempt)
        match outcome:
            case Accepted():
                return await self._accepted(attempt, outcome)
            case Unknown() | Duplicate():
                return await self._unanswered(attempt, outcome)
            case Rejected():
                return await self._refused(task, outcome.message)
            case BadCredential() | NoSuchCall():
                why = await self._wrongly_set(attempt, outcome)
                return await self._not_made(task, why, CREDENTIAL_PAUSE)
            case Busy() | NotSent():
                return await self._not_made(task, _why_waiting(outcome), outcome.retry_after)
            case _:
                assert_never(outcome)

    async def give_up(self, task: Task, why: str) -> Task:
        """End a task that the provider never created and that Homing does not resubmit.

        Raises Conflict if the row no longer proves this.
        """
        return await self._recorder.apply(GiveUp(task_id=task.id, why=why, now=self._clock(), rules=self._rules))

    async def _call(self, attempt: _Attempt) -> SubmitOutcome | NotSent:
        task, account = attempt.task, attempt.account
        # A kind that takes no external ID ignores this one.
        external_id = task.sent_external_id or task.id
        callback_url = self._callback_url_of(task)
        call = account.provider.submit(attempt.order, external_id=external_id, callback_url=callback_url)
        now = self._clock()
        within = min(self._rules.policy.attempt, max(attempt.deadline.left, timedelta(seconds=1)))
        try:
            reply = await self._transport.send(account, call, now=now, within=within)
        except NotSent as error:
            return error
        except ReplyLost as error:
            return Unknown(why=error.detail)
        outcome = account.provider.read_submit(reply, external_id=external_id)
        outcome = _without_credential(outcome, account.credential)
        self._poller.watch.answered(account, outcome)
        return outcome

    async def _accepted(self, attempt: _Attempt, outcome: Accepted) -> Task:
        task, account = attempt.task, attempt.account
        now = self._clock()
        prove = await self._poller.lookups.due(account, task.kind, "plan")
        accepted = RecordAccepted(sent=task, report=outcome.report, now=now, prove_lookups=prove, rules=self._rules)
        return await self._outcome(accepted)

    async def _unanswered(self, attempt: _Attempt, outcome: Unknown | Duplicate) -> Task:
        task, account, deadline = attempt.task, attempt.account, attempt.deadline
        now = self._clock()
        answered = isinstance(outcome, Duplicate) or outcome.unavailable
        proven = await self._poller.lookups.proven(account, task.kind)
        unanswered = RecordUnanswered(
            sent=task,
            why=outcome.why,
            now=now,
            # An answered attempt has ended. An unanswered one may still be in progress at the provider.
            ended_at=now if answered else now + max(deadline.left, timedelta()),
            reason=recovery.LOOKING_UP if proven else recovery.UNRESOLVED,
            rules=self._rules,
            duplicate=isinstance(outcome, Duplicate),
            text="" if isinstance(outcome, Duplicate) else outcome.excerpt,
        )
        after = await self._outcome(unanswered)
        if answered and deadline.left > timedelta():
            answer = await self._poller.look_up(after, account, within=deadline.left)
            return after if answer is None else answer.task
        return after

    async def _refused_to(self, task: Task, why: str, error: Exception) -> Task:
        """Record a refusal and raise it. If a callback has proven the task, return the task instead."""
        after = await self._refused(task, why)
        if after.status is Status.REJECTED:
            raise error
        return after

    async def _refused(self, task: Task, why: str) -> Task:
        return await self._outcome(RecordRefused(sent=task, why=why, now=self._clock(), rules=self._rules))

    async def _not_made(self, task: Task, why: str, retry_after: timedelta | None) -> Task:
        """Plan a resubmission of a task that the provider does not accept now.

        The task is refused after ``policy.repeat_within``, before its client forgets it.
        """
        policy, now = self._rules.policy, self._clock()
        end = task.created_at + policy.repeat_within
        if now >= end:
            return await self._refused(task, f"{why}; the provider did not accept it")
        again_at = min(now + schedule.repeat_delay(task, now=now, policy=policy, retry_after=retry_after), end)
        return await self._outcome(RecordNotMade(sent=task, why=why, again_at=again_at, rules=self._rules))

    async def _wrongly_set(self, attempt: _Attempt, outcome: BadCredential | NoSuchCall) -> str:
        """Raise the alarm about a setting that the operator must correct. Return the text that a client may read."""
        if isinstance(outcome, BadCredential):
            kind, why, text = Alarm.CREDENTIAL, CREDENTIAL_REFUSED, f"{outcome.message} ({outcome.code})"
        else:
            account = attempt.account
            why = f"no such call at {account.address_setting or account.base_url}"
            kind, text = Alarm.NO_SUCH_CALL, f"{outcome.why}: {outcome.text}" if outcome.text else outcome.why
        task, detail = attempt.task, f"{why}: {text}"
        alarm = RaisedAlarm(kind=kind, provider=task.provider, at=self._clock(), task_id=task.id, detail=detail)
        name = f"alarm {kind.value} of {task.id}"
        self.notes.keep(name, RecordChange(Change(result=None, alarms=(alarm,))))
        await self.notes.attempt(name)
        return why

    async def _outcome(self, outcome: RecordAccepted | RecordRefused | RecordUnanswered | RecordNotMade) -> Task:
        """Record an outcome, with retries until it is recorded. Raises the error of the first try.

        A later attempt of the row, or newer knowledge about it, makes an outcome stale. An outcome that proves that the
        provider has the task never becomes stale.
        """
        try:
            return await self._recorder.apply(outcome)
        except ServiceError:
            late: Work[Task] = outcome
            duplicate = isinstance(outcome, RecordUnanswered) and outcome.duplicate
            if not duplicate and not isinstance(outcome, RecordAccepted):
                late = RecordLate(outcome=outcome)
            self.notes.keep(f"outcome {outcome.sent.attempts} of {outcome.sent.id}", late)
            raise


def restored(task: Task, body: bytes) -> Order:
    """Build the order again from the row and its kept body."""
    return Order(
        kind=task.kind,
        body=read_object(body),
        shown=task.request,
        request_hash=task.request_hash or "",
        model=task.model or "",
        external_id=task.external_id,
        callback_url=task.client_callback_url,
    )


def _refusal(outcome: Rejected, task: Task) -> Refused:
    return Refused(outcome.message, http_status=outcome.http_status, code=outcome.code, task_id=task.id)


def _without_credential(outcome: SubmitOutcome, credential: Credential) -> SubmitOutcome:
    """Mask the operator's credential in the texts of an answer.

    They may repeat it, and clients and alarms show them.
    """
    match outcome:
        case Rejected() | Busy() | BadCredential():
            return replace(outcome, message=masked(outcome.message, credential))
        case NoSuchCall():
            return replace(outcome, text=excerpt(outcome.text, credential))
        case Unknown():
            return replace(outcome, excerpt=excerpt(outcome.excerpt, credential))
        case Accepted() | Duplicate():
            return outcome
        case _:
            assert_never(outcome)


def _too_busy(outcome: Waiting, task: Task, delay: timedelta) -> Exception:
    if isinstance(outcome, NotSent):
        return ProviderUnavailable(
            "the provider cannot be reached. Nothing was created. Try again later", retry_after=RETRY_LATER
        )
    return Refused(
        outcome.message,
        http_status=outcome.http_status,
        code=outcome.code,
        task_id=task.id,
        retry_after=outcome.retry_after or max(delay, timedelta(seconds=1)),
    )


def _why_waiting(outcome: Waiting) -> str:
    return outcome.detail if isinstance(outcome, NotSent) else f"busy: {outcome.message}"
