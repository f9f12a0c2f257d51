"""Sends helper calls of clients with the operator's credential. A call that costs or makes something is sent once.

Such a call is recorded before it is sent, and its answer before the client gets it. After a lost answer the call is
unknown: Homing shows that, and never sends it again.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tracker.errors import (
    Conflict,
    CredentialMissing,
    CredentialRefused,
    HomingError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    ProviderUnavailable,
    ReplyLost,
    ServiceError,
)
from tracker.model.changes import Change, RaisedAlarm, RecordChange
from tracker.model.helper_records import HelperRecord, HelperState
from tracker.model.provider_objects import Claim, objects_in, only_own
from tracker.model.shared_capacity import SharedCapacity
from tracker.model.task import Alarm, ClientIdentity, Trouble
from tracker.model.untrusted import READ_IN_THREAD, JsonObject, read_object
from tracker.providers.base import Account, BadCredential, Reply, Unknown
from tracker.providers.helper_calls import HelperAnswer, HelperOutcome, HelperRequest
from tracker.rules.outcomes import Rules
from tracker.service import helper_outcomes as outcomes
from tracker.service.account_watch import CREDENTIAL_REFUSED, AccountWatch
from tracker.service.budget import Budgets
from tracker.service.object_owners import ObjectOwners
from tracker.service.recorder import Recorder
from tracker.storage.claim_store import MAX_CLAIMS
from tracker.storage.store import Store
from tracker.transport import Sender

# The calls that may wait for the provider at once. The transport has more connections, for submissions and polls.
AT_ONCE: Final = 24
# How long the database may take to record an answer.
RECORD_WITHIN: Final = timedelta(seconds=10)
RECORD_AGAIN: Final = timedelta(seconds=0.5)
LOST_PER_STEP: Final = 100
# The provider ends a session after a day.
SESSION_KEPT: Final = timedelta(days=2)
GIVEN_UP: Final = "no answer was recorded before the deadline, or before the process ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperOrder:
    """A helper call of a client at an account."""

    client: ClientIdentity
    account: Account
    request: HelperRequest
    idempotency_key: str | None = None


class HelperCalls:
    """Sends helper calls. A repeat with the same idempotency key waits for the first call, or gets its result.

    ``groups`` are the groups of calls that are switched on.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        transport: Sender,
        watch: AccountWatch,
        budgets: Budgets,
        *,
        rules: Rules,
        clock: Callable[[], datetime],
        groups: Collection[str],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._transport = transport
        self._watch = watch
        self._budgets = budgets
        self._policy = policy = rules.policy
        self._owner = rules.owner
        self._clock = clock
        self.groups = groups
        self.owners = ObjectOwners(store=store, transport=transport, budgets=budgets, policy=policy, clock=clock)
        self._slots = SharedCapacity(AT_ONCE, outcomes.FULL)
        self._bodies = SharedCapacity(policy.helper_capacity, outcomes.FULL)
        self._under_way: set[asyncio.Task[HelperAnswer]] = set()
        # By client and idempotency key: the calls that this process is sending, with the hash of their requests.
        self._running: dict[tuple[str, str], tuple[str, asyncio.Task[HelperAnswer]]] = {}

    async def call(self, order: HelperOrder) -> HelperAnswer:
        """Send a call and return its successful answer. The call goes on if the caller stops waiting.

        Raises Refused, CredentialRefused, CredentialMissing, NotFound, ProviderUnavailable and Overloaded (nothing was
        done), TooMany, Conflict (the key was used with another request) and OutcomeUnknown (it may have been done).
        """
        if order.account.credential is None:
            what = order.account.credential_settings
            raise CredentialMissing(
                "credential missing: this server has none for the provider, so nothing was sent"
                + (f"; set {what}" if what else ""),
                retry_after=outcomes.RETRY_LATER,
            )
        helper = order.request.helper
        if helper.scrubbed is not None and not order.client.sees_all:
            await self._check_account(order.account)
            return HelperAnswer(body=helper.scrubbed)
        task, is_new = self._started(order)
        if is_new:
            # It holds its own body until it ends.
            return await asyncio.shield(task)
        with self._bodies.holding(order.client.name, len(order.request.call.body)):
            return await asyncio.shield(task)

    async def give_up_lost(self) -> int:
        """Mark calls whose answer is lost, also those of a process that has ended. Return how many there were."""
        alone = None if self._store.shared else self._owner
        lost = await self._store.helper_calls.lost(now=self._clock(), alone=alone, limit=LOST_PER_STEP)
        for record in lost:
            await self._give_up(record)
        until = self._clock() - SESSION_KEPT
        return len(lost) + await self._store.claims.delete_old_sessions(until=until, limit=LOST_PER_STEP)

    async def close(self) -> None:
        """Wait for the calls that are being sent. Each ends by its own deadline."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _started(self, order: HelperOrder) -> tuple[asyncio.Task[HelperAnswer], bool]:
        """Return the running call with the key of ``order``, or a new one, and whether it is new. Raises: Conflict."""
        name = None if order.idempotency_key is None else (order.client.name, order.idempotency_key)
        request = order.request
        if not request.helper.recorded:
            name = None
        if name is not None and (running := self._running.get(name)) is not None:
            if running[0] != request.request_hash:
                raise Conflict(outcomes.KEY_USED)
            return running[1], False
        work = self._recorded(order) if request.helper.recorded else self._unrecorded(order)
        task = asyncio.create_task(work, name="homing helper call")
        self._under_way.add(task)
        if name is not None:
            self._running[name] = (request.request_hash, task)

        def done(ended: asyncio.Task[HelperAnswer]) -> None:
            self._under_way.discard(ended)
            if name is not None:
                self._running.pop(name, None)
            if not ended.cancelled():
                # The waiting requests have the error. If none waits, asyncio must not report it as never retrieved.
                ended.exception()

        task.add_done_callback(done)
        return task, True

    async def _recorded(self, order: HelperOrder) -> HelperAnswer:
        key, records = order.idempotency_key, self._store.helper_calls
        if key is not None and (earlier := await records.find(order.client.name, key)) is not None:
            return await self._repeated(order, earlier)
        with self._holding(order):
            now = self._clock()
            self._budgets.of(order.account.id).take_for(order.client.name, now)
            # This may query the provider and fail, so it comes before the record. Its result only counts after it.
            is_allowed = await self._uses_only_allowed(order)
            record, is_new = await records.begin(self._record_of(order, now))
            if not is_new:
                return await self._repeated(order, record)
            outcome: HelperOutcome | NotSent
            if is_allowed:
                outcome = await self._send(order)
            else:
                outcome = outcomes.not_found(order.request.helper)
            return await self._ended(order, record, outcome)

    async def _unrecorded(self, order: HelperOrder) -> HelperAnswer:
        helper, account = order.request.helper, order.account
        with self._holding(order):
            self._budgets.of(account.id).take_for(order.client.name, self._clock())
            if helper.needs is not None:
                for named in order.request.objects:
                    if not await self.owners.owns(order.client, account, named):
                        raise NotFound(helper.not_found)
            outcome = await self._send(order)
            if isinstance(outcome, HelperAnswer):
                return await self._followed(order, outcome)
            if isinstance(outcome, Unknown) and helper.method == "GET":
                raise ProviderUnavailable(outcomes.UNREADABLE, retry_after=outcomes.RETRY_LATER)
            raise await self._error_of(order, outcome)

    async def _followed(self, order: HelperOrder, answer: HelperAnswer) -> HelperAnswer:
        """Record the objects that an unrecorded call made or deleted, and leave out those of other clients."""
        helper, account = order.request.helper, order.account
        if helper.makes is not None:
            await self._store.claims.add(self._claims(order, answer))
        if helper.deletes:
            for named in order.request.objects:
                # A claim that stays only leads to the provider's own "not found".
                with suppress(ServiceError):
                    await self._store.claims.remove(account.provider.name, account.name, named)
        if helper.lists is not None and not order.client.sees_all:
            listed = objects_in(answer.body, helper.lists)
            owned = await self._store.claims.owned(account.provider.name, account.name, order.client.name, listed)
            kept = only_own(answer.body, helper.lists, owned)
            if kept is None:
                raise ProviderUnavailable(outcomes.UNREADABLE, retry_after=outcomes.RETRY_LATER)
            return replace(answer, body=kept)
        return answer

    async def _send(self, order: HelperOrder) -> HelperOutcome | NotSent:
        account, request, now = order.account, order.request, self._clock()
        try:
            reply = await self._transport.send(account, request.call, now=now, within=self._policy.helper_call)
        except NotSent as error:
            return error
        except ReplyLost as error:
            return Unknown(why=error.detail)

        def read(reply: Reply) -> HelperOutcome:
            token = account.provider.authorization(account.credential, now).get("authorization", "")
            return outcomes.without_credential(request.read(reply), account, token.rpartition(" ")[2])

        large = len(reply.body) > READ_IN_THREAD
        outcome = await asyncio.to_thread(read, reply) if large else read(reply)
        self._watch.answered(account, () if isinstance(outcome, HelperAnswer) else outcome)
        return outcome

    async def _ended(self, order: HelperOrder, record: HelperRecord, outcome: HelperOutcome | NotSent) -> HelperAnswer:
        """Record the end of a call, then return its answer or raise its error."""
        if isinstance(outcome, HelperAnswer):
            # An answer may be megabytes long. Writing and hashing it must not delay callbacks.
            body, digest = await asyncio.to_thread(_encoded, outcome.body)
            ended = msgspec.structs.replace(
                record,
                state=HelperState.ANSWERED,
                http_status=outcome.http_status,
                body=body,
                digest=digest,
                size=len(body),
            )
            await self._record_end(ended, self._claims(order, outcome))
            return outcome
        if isinstance(outcome, Unknown):
            await self._unknown(record, outcome.why)
            raise OutcomeUnknown(outcomes.UNKNOWN)
        state, why = HelperState.REFUSED, "the provider refused it"
        if isinstance(outcome, NotSent):
            state, why = HelperState.NOT_SENT, outcome.detail
        await self._record_end(msgspec.structs.replace(record, state=state, why=why))
        raise await self._error_of(order, outcome)

    async def _record_end(self, record: HelperRecord, claims: tuple[Claim, ...] = ()) -> None:
        """Record an end. Raises: OutcomeUnknown, if the database cannot record it in time."""
        try:
            async with asyncio.timeout(RECORD_WITHIN.total_seconds()):
                while True:
                    try:
                        ended = msgspec.structs.replace(record, ended_at=self._clock())
                        await self._store.helper_calls.end(ended, claims)
                    except ServiceError:
                        await asyncio.sleep(RECORD_AGAIN.total_seconds())
                    else:
                        return
        except TimeoutError:
            raise OutcomeUnknown(f"the database cannot record the provider's answer. {outcomes.UNKNOWN}") from None

    async def _repeated(self, order: HelperOrder, earlier: HelperRecord) -> HelperAnswer:
        """Return the result of an earlier call with the same key."""
        if earlier.request_hash != order.request.request_hash:
            raise Conflict(outcomes.KEY_USED)
        if earlier.state is HelperState.ANSWERED:
            if not earlier.body:
                raise OutcomeUnknown(outcomes.NOT_KEPT)
            return HelperAnswer(body=read_object(earlier.body), http_status=earlier.http_status or 200)
        if earlier.state is HelperState.SENDING:
            # This process would have found its own call. A process that serves a file has no others beside it.
            gone = earlier.owner == self._owner or not self._store.shared or earlier.until <= self._clock()
            if not gone:
                raise ServiceError(outcomes.STILL_RUNNING, retry_after=outcomes.RETRY_LATER)
            await self._give_up(earlier)
        raise OutcomeUnknown(outcomes.UNKNOWN)

    async def _give_up(self, record: HelperRecord) -> None:
        await self._unknown(record, GIVEN_UP)

    async def _unknown(self, record: HelperRecord, why: str) -> None:
        """Record that the result of a call is unknown, and raise the alarm. It comes first, so it may come twice."""
        detail = f"{record.call} of client {record.client} (number {record.id}): {why}"
        await self._alarm(Alarm.UNANSWERED_CALL, record.provider, detail)
        await self._record_end(msgspec.structs.replace(record, state=HelperState.UNKNOWN, why=why))

    async def _alarm(self, kind: Alarm, provider: str, detail: str) -> None:
        alarm = RaisedAlarm(kind=kind, provider=provider, at=self._clock(), task_id=None, detail=detail)
        with suppress(ServiceError):
            await self._recorder.apply(RecordChange(Change(result=None, alarms=(alarm,))))

    async def _error_of(self, order: HelperOrder, outcome: HelperOutcome | NotSent) -> HomingError:
        if isinstance(outcome, BadCredential):
            text = f"{CREDENTIAL_REFUSED}: {outcome.message} ({outcome.code})"
            await self._alarm(Alarm.CREDENTIAL, order.account.provider.name, text)
        return outcomes.error_of(outcome)

    async def _check_account(self, account: Account) -> None:
        """Raise the error of an account that does not work now, as far as earlier answers show."""
        state = await self._watch.state(account.provider.name, account.name)
        trouble = None if state is None else state.trouble
        if trouble is Trouble.CREDENTIAL:
            raise CredentialRefused(outcomes.CREDENTIAL, retry_after=outcomes.RETRY_LATER)
        if trouble is not None:
            raise ProviderUnavailable("the provider does not answer as usual now", retry_after=outcomes.RETRY_LATER)

    async def _uses_only_allowed(self, order: HelperOrder) -> bool:
        if order.request.helper.uses is None:
            return True
        for named in order.request.objects:
            if not await self.owners.may_use(order.client, order.account, named):
                return False
        return True

    def _holding(self, order: HelperOrder) -> ExitStack:
        """Hold a slot and the memory of the body. Raises: Overloaded."""
        client = order.client.name
        with ExitStack() as held:
            held.enter_context(self._slots.holding(client, 1))
            held.enter_context(self._bodies.holding(client, len(order.request.call.body)))
            return held.pop_all()

    def _record_of(self, order: HelperOrder, now: datetime) -> HelperRecord:
        account, request = order.account, order.request
        return HelperRecord(
            provider=account.provider.name,
            account=account.name,
            client=order.client.name,
            call=request.helper.name,
            request_hash=request.request_hash,
            idempotency_key=order.idempotency_key,
            owner=self._owner,
            created_at=now,
            until=now + self._policy.helper_call + RECORD_WITHIN + self._policy.lease_margin,
        )

    def _claims(self, order: HelperOrder, answer: HelperAnswer) -> tuple[Claim, ...]:
        helper, account = order.request.helper, order.account
        if helper.makes is None:
            return ()
        return tuple(
            Claim(
                provider=account.provider.name,
                account=account.name,
                object=made,
                client=order.client.name,
                at=self._clock(),
                verified=True,
            )
            for made in objects_in(answer.body, helper.makes)[:MAX_CLAIMS]
        )


def _encoded(answer: JsonObject) -> tuple[bytes, str]:
    """Return the JSON of an answer and its SHA-256."""
    body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    return body, hashlib.sha256(body).hexdigest()
