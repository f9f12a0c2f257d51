"""The Tracker: every verb that users, the receiver, the API and the loops call. One transaction per verb.

Constructing it does no I/O, so that an app can be built around it at import time; ``async with`` opens the database,
starts the recorder, and closes all again.
"""

import asyncio
import secrets as random_secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from random import SystemRandom
from types import TracebackType
from typing import Final, Self

from tracker import callback_url, decisions, schedule
from tracker.bounds import identifier
from tracker.decisions import Intent, Rules
from tracker.errors import HomingError, InvalidRequest, NotFound, OurError, ProviderUnavailable
from tracker.models import (
    SETTLED,
    Alarm,
    Arrived,
    Caller,
    Check,
    Expected,
    HistoryEntry,
    Orphan,
    Recorded,
    StandingAddress,
    Stats,
    Status,
    Task,
    TaskFilter,
    TaskPage,
    Trust,
    new_task_id,
)
from tracker.providers.base import Account, Found, Kind, Missing, Order
from tracker.questions import Questions
from tracker.recorder import Recorder
from tracker.schedule import Policy
from tracker.storage.store import Store
from tracker.storage.work import (
    Key,
    RaisedAlarm,
    Work,
    by_external_id,
    by_id,
    by_idempotency_key,
    by_provider_id,
    by_sent_id,
    by_unanswered,
)
from tracker.submission import Submission, kept_body
from tracker.transport import Transport

SECRET_NAME: Final = "callback"
WAIT_STEP: Final = 0.25
TAGS: Final = 20


class Tracker:
    """What we believe about each task, how we learn it, and who may ask."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Mapping[str, Account],
        public_url: str | None,
        callback_secrets: Sequence[bytes],
        threshold: Trust,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self.providers = accounts
        self.public_url = public_url
        self.clock = clock
        self.policy = policy
        self.owner = random_secrets.token_hex(8)
        self.store = store
        self._callback_secrets = tuple(callback_secrets)
        self._random = SystemRandom().random
        self._rules = Rules(policy=policy, threshold=threshold, random=self._random)
        self._recorder = Recorder(store)
        self._transport = Transport()
        self.questions = Questions(
            store=store, recorder=self._recorder, transport=self._transport, rules=self._rules, clock=clock
        )
        self.submission = Submission(
            store=store,
            recorder=self._recorder,
            transport=self._transport,
            questions=self.questions,
            rules=self._rules,
            clock=clock,
            owner=self.owner,
            callback_address=self._address_for,
        )
        self._in_flight: dict[str, asyncio.Task[Task]] = {}

    async def __aenter__(self) -> Self:
        await self.store.open()
        if not self._callback_secrets:
            fresh = random_secrets.token_bytes(callback_url.SECRET_BYTES)
            self._callback_secrets = (await self.store.generated_secret(SECRET_NAME, fresh),)
        await self._transport.open()
        await self._recorder.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the submits in flight, then commit what is queued, then close."""
        if self._in_flight:
            await asyncio.wait(self._in_flight.values())
        await self._recorder.close()
        await self._transport.close()
        await self.store.close()

    # ---- sending tasks out

    async def submit(
        self,
        caller: Caller,
        provider: str,
        order: Order,
        *,
        tags: Sequence[str] = (),
        idempotency_key: str | None = None,
        deadline: timedelta | None = None,
        answered_later: bool = False,
    ) -> Task:
        """Submit a task, once. Gives it when the provider has it or may have it, within ``policy.answer_within``.

        A caller that says ``answered_later`` calls ``answered`` when its own client surely has the answer; until then
        the same body, sent again after a crash, gets the same task. The submit runs on if the caller stops waiting.

        Raises Refused, CredentialRefused and ProviderUnavailable (nothing was created, and nothing will be), Conflict
        (an id was used with another body), StoreUnavailable and Overloaded (nothing was sent).
        """
        account = self._account(provider)
        kind = self._kind(account, order.kind)
        now = self.clock()
        until = now + self.policy.answer_within
        task_id = new_task_id(now, random_secrets.token_bytes(10))
        task = Task(
            id=task_id,
            provider=provider,
            kind=order.kind,
            account=account.name,
            client=caller.name,
            origin=decisions.ORIGIN_SUBMIT,
            created_at=now,
            updated_at=now,
            deadline_at=now + (deadline or schedule.deadline_for(kind.name, kind.deadline, self.policy)),
            external_id=order.external_id,
            sent_external_id=task_id,
            idempotency_key=_bounded(idempotency_key, "Idempotency-Key"),
            request=order.shown,
            request_hash=order.request_hash,
            caller_callback_url=order.callback_url,
            callback_asked=self.public_url is not None,
            tags=_tags(tags),
            attempts=1,
            attempt_deadline_at=until,
            lease_owner=self.owner,
            lease_until=until + self.policy.lease_margin,
            next_poll_at=until + self.policy.lease_margin,
            taken_by=self.owner,
            answered_at=None if answered_later else now,
        )
        intent = await self._write_intent(task, kept_body(order))
        if intent.fresh:
            running = asyncio.create_task(self.submission.first(intent.task, order, account, until=until))
            self._in_flight[task_id] = running
            running.add_done_callback(partial(self._landed, task_id))
            return await asyncio.shield(running)
        return await self._joined(intent.task)

    async def answered(self, task_id: str) -> None:
        """Note that the answer to a submit is on its way; a failure only weakens the guard against a re-send."""
        now = self.clock()
        try:
            await self._recorder.apply(
                Work(keys=frozenset({by_id(task_id)}), decide=partial(decisions.answered, task_id=task_id, now=now))
            )
        except OurError:
            return

    async def expect(
        self,
        caller: Caller,
        *,
        provider: str,
        kind: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
    ) -> Expected:
        """Write down a task that somebody else is about to submit, and give the address for its ``callback_url``.

        ``external_id`` is what will be sent to the provider as such; it is what callbacks and lookups are matched by
        until the provider's id is known. Raises Conflict where a row has it already.
        """
        account = self._account(provider)
        task = self._task_of_others(caller, account, self._kind(account, kind), "expect", deadline, tags, external_id)
        keys = self._keys_of(task)
        written = await self._recorder.apply(Work(keys=keys, decide=partial(decisions.written_down, task=task)))
        return Expected(task=written, callback_url=self._address_for(written))

    async def adopt(
        self,
        caller: Caller,
        *,
        provider: str,
        kind: str,
        provider_task_id: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
        origin: str = "adopt",
    ) -> Task:
        """Take over a task that is already running. Raises NotFound where the provider does not know it."""
        account = self._account(provider)
        named = self._kind(account, kind)
        value = _bounded(provider_task_id, "provider_task_id")
        assert value is not None
        known = await self.store.find_ref(value, client=None, provider=provider)
        if known is not None and value in {known.id, known.provider_task_id, known.sent_external_id}:
            if known.client == caller.name or caller.sees_all:
                return known
            raise NotFound(f"the provider has no task {value}")
        outcome = await self.questions.query(account, kind, value)
        if isinstance(outcome, Missing):
            raise NotFound(f"the provider has no task {value}")
        if not isinstance(outcome, Found):
            raise ProviderUnavailable("the provider could not be asked about the task; try again")
        return await self.adopt_found(
            caller, account, named, outcome, external_id=external_id, deadline=deadline, tags=tags, origin=origin
        )

    async def adopt_found(
        self,
        caller: Caller,
        account: Account,
        kind: Kind,
        found: Found,
        *,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
        origin: str,
    ) -> Task:
        """Write down a task that the provider has just confirmed, with what it said."""
        task = self._task_of_others(caller, account, kind, origin, deadline, tags, external_id, found)
        work = Work(keys=self._keys_of(task), decide=partial(decisions.written_down, task=task))
        written = await self._recorder.apply(work)
        answer = await self.questions.record(written, account, found, asked_at=self.clock())
        return answer.task

    async def attach(self, caller: Caller, ref: str, provider_task_id: str) -> Task:
        """Learn the provider's id of an expected task from its owner. Raises Conflict where another is known."""
        task = await self.get(caller, ref)
        value = _bounded(provider_task_id, "provider_task_id")
        assert value is not None
        keys = frozenset({by_id(task.id), by_provider_id(task.provider, task.account, value)})
        decide = partial(
            decisions.attached, task_id=task.id, provider_task_id=value, now=self.clock(), policy=self.policy
        )
        return await self._recorder.apply(Work(keys=keys, decide=decide))

    # ---- what comes home

    async def record(self, delivery: Arrived) -> Recorded:
        """Record one delivery; committed when it returns."""
        account = self._account(delivery.provider)
        claim = delivery.observation.claim
        keys: set[Key] = set()
        if delivery.task_id is not None:
            keys.add(by_id(delivery.task_id))
        else:
            if claim.provider_task_id is not None:
                keys.add(by_provider_id(delivery.provider, account.name, claim.provider_task_id))
            if claim.external_id is not None:
                keys.add(by_sent_id(delivery.provider, account.name, claim.external_id))
        decide = partial(decisions.delivered, arrived=delivery, account=account.name, rules=self._rules)
        return await self._recorder.apply(Work(keys=frozenset(keys), decide=decide))

    async def poll(self, caller: Caller, ref: str) -> tuple[Task, str]:
        """Ask the provider about a task now; the sentence says what came of it."""
        task = await self.get(caller, ref)
        answer = await self.questions.ask(task, self._account(task.provider))
        return answer.task, answer.why

    async def resolve(
        self,
        caller: Caller,
        ref: str,
        *,
        status: Status | None = None,
        provider_task_id: str | None = None,
        note: str = "",
    ) -> Task:
        """Settle a task by the operator's word: rejected, expired, or the provider's id of an unresolved one.

        Raises Conflict where the provider proved something stronger.
        """
        if provider_task_id is not None and status is None:
            task = await self.attach(caller, ref, provider_task_id)
            answer = await self.questions.ask(task, self._account(task.provider))
            return answer.task
        if status not in {Status.REJECTED, Status.EXPIRED} or provider_task_id is not None:
            raise InvalidRequest("resolve takes either status (rejected or expired) or provider_task_id")
        task = await self.get(caller, ref)
        account = self._account(task.provider)
        decide = partial(
            decisions.resolved,
            task_id=task.id,
            status=status,
            note=note,
            now=self.clock(),
            lifetime=account.provider.capabilities.result_lifetime,
            rules=self._rules,
        )
        return await self._recorder.apply(Work(keys=frozenset({by_id(task.id)}), decide=decide))

    async def alarm(self, kind: Alarm, *, provider: str, task_id: str | None = None, detail: str) -> None:
        """Count an alarm that belongs to no delivery."""
        raised = RaisedAlarm(kind=kind, provider=provider, at=self.clock(), task_id=task_id, detail=detail)
        await self._recorder.apply(Work(keys=frozenset(), decide=partial(decisions.sounded, alarm=raised)))

    # ---- asking for state

    async def get(self, caller: Caller, ref: str, *, provider: str | None = None, kind: str | None = None) -> Task:
        """Find a task by our id, the provider's, or the caller's own. Raises NotFound, also for other clients'."""
        task = None
        if identifier(ref) is not None:
            client = None if caller.sees_all else caller.name
            task = await self.store.find_ref(ref, client=client, provider=provider, kind=kind)
        if task is None:
            raise NotFound("no such task")
        return task

    async def fetch(self, caller: Caller, ref: str, *, provider: str, kind: str) -> Task:
        """Find a task, or ask the provider once and adopt it. Raises NotFound where neither knows it."""
        try:
            return await self.get(caller, ref, provider=provider, kind=kind)
        except NotFound:
            if identifier(ref) is None:
                raise
            return await self.adopt(caller, provider=provider, kind=kind, provider_task_id=ref, origin="fetch")

    async def find(self, wanted: TaskFilter, *, caller: Caller, limit: int = 50, cursor: str | None = None) -> TaskPage:
        """Give a page of the caller's tasks, newest first."""
        return await self.store.page(self._scoped(wanted, caller), limit=limit, cursor=cursor)

    async def find_numbered(self, wanted: TaskFilter, *, caller: Caller, offset: int, limit: int) -> Sequence[Task]:
        """Give a numbered page of the caller's tasks, newest first."""
        return await self.store.numbered_page(self._scoped(wanted, caller), offset=offset, limit=limit)

    async def history(self, caller: Caller, ref: str) -> tuple[Task, Sequence[HistoryEntry]]:
        """Give a task and its kept observations, oldest first."""
        task = await self.get(caller, ref)
        return task, await self.store.history(task.id)

    async def wait(self, caller: Caller, ref: str, *, timeout: timedelta) -> Task:
        """Wait until a task is settled, or ``timeout`` is over; give it as it then is."""
        until = self.clock() + timeout
        task = await self.get(caller, ref)
        while task.status not in SETTLED and self.clock() < until:
            await asyncio.sleep(WAIT_STEP)
            task = await self.get(caller, task.id)
        return task

    async def stats(self, caller: Caller) -> Stats:
        """Count the caller's tasks; the whole store for one that sees all."""
        return await self.store.stats(client=None if caller.sees_all else caller.name, now=self.clock())

    async def orphans(self, *, limit: int = 100) -> Sequence[Orphan]:
        """Give the deliveries about tasks that nobody told us of, latest first."""
        return await self.store.orphans(limit=limit)

    async def check(self) -> list[Check]:
        """Tell whether the parts that a delivery needs are working."""
        try:
            await self.store.ping()
        except HomingError as error:
            return [Check(name="database", ok=False, detail=error.detail)]
        return [Check(name="database", ok=True, detail=self.store.name)]

    # ---- callback addresses

    def task_of_token(self, provider: str, token: str) -> str | None:
        """Give the task that a token proves, or None."""
        return callback_url.check(token, self._callback_secrets, provider=provider)

    async def standing_address(self, provider: str, token: str) -> StandingAddress | None:
        """Give the live standing address of a token, or None."""
        if not token.startswith(callback_url.STANDING_PREFIX):
            return None
        return await self.store.address_of(provider, callback_url.standing_hash(token))

    async def create_address(
        self, caller: Caller, *, provider: str, kind: str | None = None, label: str = ""
    ) -> tuple[StandingAddress, str]:
        """Make a standing address; the URL is shown this once and cannot be shown again."""
        account = self._account(provider)
        if kind is not None:
            self._kind(account, kind)
        if self.public_url is None:
            raise InvalidRequest("there is no public address: set HOMING_PUBLIC_URL")
        token = callback_url.standing_token(random_secrets.token_bytes(callback_url.STANDING_BYTES))
        address = StandingAddress(
            id=0,
            provider=provider,
            kind=kind,
            client=caller.name,
            created_at=self.clock(),
            revoked_at=None,
            label=label,
        )
        kept = await self.store.add_address(address, callback_url.standing_hash(token))
        return kept, callback_url.address(self.public_url, provider=provider, token=token)

    async def addresses(self) -> Sequence[StandingAddress]:
        return await self.store.addresses()

    async def revoke_address(self, address_id: int) -> StandingAddress:
        """Revoke a standing address; what comes there afterwards is answered 404. Raises NotFound."""
        address = await self.store.revoke_address(address_id, now=self.clock())
        if address is None:
            raise NotFound(f"no callback address {address_id}")
        return address

    # ---- inside

    async def _write_intent(self, task: Task, body: bytes) -> Intent:
        keys: set[Key] = {by_id(task.id)}
        if task.external_id is not None:
            keys.add(by_external_id(task.client, task.external_id))
        if task.idempotency_key is not None:
            keys.add(by_idempotency_key(task.client, task.idempotency_key))
        if task.request_hash is not None:
            keys.add(by_unanswered(task.client, task.request_hash))
        decide = partial(decisions.intended, task=task, body=body, policy=self.policy)
        return await self._recorder.apply(Work(keys=frozenset(keys), decide=decide))

    async def _joined(self, task: Task) -> Task:
        """Give a task that an earlier request submits: wait for that one's outcome where it is under way here."""
        running = self._in_flight.get(task.id)
        if running is None:
            return task
        return await asyncio.shield(running)

    def _landed(self, task_id: str, running: asyncio.Task[Task]) -> None:
        self._in_flight.pop(task_id, None)
        if not running.cancelled():
            running.exception()

    def _task_of_others(
        self,
        caller: Caller,
        account: Account,
        kind: Kind,
        origin: str,
        deadline: timedelta | None,
        tags: Sequence[str],
        external_id: str | None,
        found: Found | None = None,
    ) -> Task:
        now = self.clock()
        claim = found.claim if found is not None else None
        sent = _bounded(external_id, "external_id") or (claim.external_id if claim is not None else None)
        usual = schedule.first_check(kind.usual, self.policy, self._random())
        return Task(
            id=new_task_id(now, random_secrets.token_bytes(10)),
            provider=account.provider.name,
            kind=kind.name,
            account=account.name,
            client=caller.name,
            origin=origin,
            created_at=now,
            updated_at=now,
            deadline_at=now + (deadline or schedule.deadline_for(kind.name, kind.deadline, self.policy)),
            external_id=sent,
            sent_external_id=sent,
            provider_task_id=claim.provider_task_id if claim is not None else None,
            tags=_tags(tags),
            callback_asked=origin == "expect" and self.public_url is not None,
            next_poll_at=now + usual,
            answered_at=now,
        )

    def _keys_of(self, task: Task) -> frozenset[Key]:
        keys: set[Key] = {by_id(task.id)}
        if task.external_id is not None:
            keys.add(by_external_id(task.client, task.external_id))
        if task.sent_external_id is not None:
            keys.add(by_sent_id(task.provider, task.account, task.sent_external_id))
        if task.provider_task_id is not None:
            keys.add(by_provider_id(task.provider, task.account, task.provider_task_id))
        return frozenset(keys)

    def _address_for(self, task: Task) -> str | None:
        if self.public_url is None:
            return None
        token = callback_url.mint(self._callback_secrets, provider=task.provider, task_id=task.id)
        return callback_url.address(self.public_url, provider=task.provider, token=token)

    def _account(self, provider: str) -> Account:
        account = self.providers.get(provider)
        if account is None:
            raise InvalidRequest(f"unknown provider {provider!r}; known: {', '.join(sorted(self.providers))}")
        return account

    @staticmethod
    def _kind(account: Account, kind: str) -> Kind:
        named = account.provider.kinds.get(kind)
        if named is None:
            known = ", ".join(sorted(account.provider.kinds))
            raise InvalidRequest(f"unknown kind {kind!r} of {account.provider.name}; known: {known}")
        return named

    @staticmethod
    def _scoped(wanted: TaskFilter, caller: Caller) -> TaskFilter:
        if caller.sees_all:
            return wanted
        if wanted.client not in {None, caller.name}:
            raise InvalidRequest("client: this key sees only its own tasks")
        return TaskFilter(
            client=caller.name,
            statuses=wanted.statuses,
            provider=wanted.provider,
            kind=wanted.kind,
            tag=wanted.tag,
            created_after=wanted.created_after,
            created_before=wanted.created_before,
        )


def _bounded(value: str | None, name: str) -> str | None:
    if value is None:
        return None
    bounded = identifier(value)
    if bounded is None:
        raise InvalidRequest(f"{name}: 1 to 200 printable characters")
    return bounded


def _tags(tags: Sequence[str]) -> tuple[str, ...]:
    if len(tags) > TAGS or any(identifier(tag) is None for tag in tags):
        raise InvalidRequest(f"tags: at most {TAGS}, each of 1 to 200 printable characters")
    return tuple(dict.fromkeys(tags))
