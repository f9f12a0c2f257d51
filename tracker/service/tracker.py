"""The Tracker: every verb that users, the receiver, the API and the loops call. One transaction per verb.

Constructing it does no I/O. ``async with`` opens the database, starts the recorder, and closes all again.
"""

import secrets as random_secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from types import TracebackType
from typing import Self

from tracker.errors import InvalidRequest, NotFound
from tracker.model.clock import Monotonic
from tracker.model.event import NO_SOURCE
from tracker.model.records import (
    IN_PROCESS,
    Arrived,
    Check,
    HistoryEntry,
    Orphan,
    SharedCallbackUrl,
    Stats,
    TaskFilter,
    TaskPage,
)
from tracker.model.sinks import SinkSpec
from tracker.model.task import SETTLED, ClientIdentity, Expected, Recorded, Status, Task, Trust
from tracker.model.untrusted import JsonObject, identifier
from tracker.providers.base import Account, Kind, Order
from tracker.rules.callbacks import RecordCallback
from tracker.rules.learning import Habits
from tracker.rules.outcomes import Rules
from tracker.rules.schedule import Policy
from tracker.service.adoption import Adoption, TrackRequest
from tracker.service.budget import Budget
from tracker.service.callback_urls import CallbackUrls
from tracker.service.client_polls import ClientPolls
from tracker.service.feed import Feed
from tracker.service.intake import Intake
from tracker.service.learner import Learner
from tracker.service.polling import Poller
from tracker.service.readiness import Readiness
from tracker.service.recorder import Recorder
from tracker.service.restoration import Restoration
from tracker.service.sink_admin import SinkAdmin
from tracker.service.sink_secrets import NO_SECRETS, SinkSecrets
from tracker.service.submission import Submission, SubmitRequest
from tracker.service.waiting import Waiting
from tracker.storage.store import Store
from tracker.transport import Sender


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
        monotonic: Monotonic,
        transport: Sender,
        source: str = NO_SOURCE,
        sinks: Sequence[SinkSpec] = (),
        sink_secrets: Mapping[str, Sequence[str]] = NO_SECRETS,
    ) -> None:
        self.providers = accounts
        self.clock = clock
        self.monotonic = monotonic
        self.policy = policy
        self.owner = random_secrets.token_hex(8)
        self.store = store
        self._readiness = Readiness(store=store, clock=clock, failing=lambda: self._recorder.trouble)
        self.learner = Learner(store=store, accounts=accounts, policy=policy, clock=clock, monotonic=monotonic)
        self.rules = Rules(
            policy=policy,
            threshold=threshold,
            random=Random().random,  # noqa: S311 - spreads what is due, and is used for every callback
            owner=self.owner,
            habits=lambda: self.learner.habits,
        )
        self.source = source
        self.feed = Feed(store.events, notices=store.notices)
        self.audit = store.audit
        self.sink_admin = SinkAdmin(
            store,
            sinks,
            SinkSecrets(store.secrets.get, sink_secrets),
            clock=clock,
            committed=self.feed.hint,
        )
        self._waiting = Waiting(feed=self.feed, get=self.get)
        self._recorder = Recorder(store, committed=self.feed.hint)
        self._transport = transport
        self._callback_urls = CallbackUrls(store=store, public_url=public_url, secrets=callback_secrets, clock=clock)
        self._restoration = Restoration(
            store,
            feed=self.feed,
            learner=self.learner,
            callback_urls=self._callback_urls,
            recorder=self._recorder,
            clock=clock,
        )
        self.poller = Poller(
            store=store,
            recorder=self._recorder,
            transport=self._transport,
            rules=self.rules,
            clock=clock,
            monotonic=monotonic,
        )
        self.watch = self.poller.watch
        self.submission = Submission(
            store=store,
            recorder=self._recorder,
            transport=self._transport,
            poller=self.poller,
            rules=self.rules,
            clock=clock,
            monotonic=monotonic,
            callback_url_of=self._callback_urls.of_task,
        )
        self.adoption = Adoption(
            store=store,
            recorder=self._recorder,
            poller=self.poller,
            callback_urls=self._callback_urls,
            rules=self.rules,
            clock=clock,
            monotonic=monotonic,
        )
        self.budget = Budget(policy.budget, clock(), client_per_minute=policy.client_budget)
        self._client_polls = ClientPolls(
            poller=self.poller, adoption=self.adoption, budget=self.budget, policy=policy, clock=clock
        )
        self.intake = Intake(
            store=store,
            recorder=self._recorder,
            submission=self.submission,
            rules=self.rules,
            clock=clock,
            callbacks=public_url is not None,
        )

    async def __aenter__(self) -> Self:
        await self.store.open()
        await self._callback_urls.open()
        await self.intake.open()
        await self._transport.open()
        await self._recorder.open()
        await self.feed.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the submits in flight, then commit what is queued, then close."""
        await self._restoration.close()
        await self.feed.close()
        await self._client_polls.close()
        await self.intake.finish()
        await self.watch.close()
        await self._readiness.close()
        await self._recorder.close()
        await self._transport.close()
        await self.store.close()

    async def submit(
        self,
        caller: ClientIdentity,
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
        (an id was used with another body), StoreUnavailable, Overloaded and CredentialMissing (nothing was sent).
        """
        account = self._account(provider)
        kind = self._kind(account, order.kind)
        if not kind.submits:
            known = ", ".join(sorted(name for name, one in account.provider.kinds.items() if one.submits))
            raise InvalidRequest(f"tasks of kind {kind.name} are not submitted here; supported: {known}")
        return await self.intake.submit(
            SubmitRequest(
                caller=caller,
                account=account,
                kind=kind,
                order=order,
                tags=tags,
                idempotency_key=idempotency_key,
                deadline=deadline,
                answered_later=answered_later,
            )
        )

    def order(self, provider: str, kind: str, body: JsonObject) -> Order:
        """Validate a submit's body as the provider documents it. Raises InvalidRequest naming the field."""
        account = self._account(provider)
        return account.provider.order(self._kind(account, kind).name, body)

    async def answered(self, task_id: str) -> None:
        """Note that the answer to a submit is on its way; what cannot be written yet is tried again."""
        await self.intake.answered(task_id)

    async def abandoned(self, task: Task) -> None:
        """Note that a submit's client left before it had its answer; what cannot be written yet is tried again."""
        await self.intake.abandoned(task)

    async def expect(
        self,
        caller: ClientIdentity,
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
        return await self.adoption.expect(
            TrackRequest(
                caller=caller,
                account=account,
                kind=self._kind(account, kind),
                external_id=external_id,
                deadline=deadline,
                tags=tags,
                origin="expect",
            )
        )

    async def adopt(
        self,
        caller: ClientIdentity,
        *,
        provider: str,
        kind: str,
        provider_task_id: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
    ) -> Task:
        """Take over a task that is already running. Raises NotFound where the provider does not know it."""
        account = self._account(provider)
        request = TrackRequest(
            caller=caller,
            account=account,
            kind=self._kind(account, kind),
            external_id=external_id,
            deadline=deadline,
            tags=tags,
        )
        return await self._client_polls.adopt(request, provider_task_id)

    async def attach(self, caller: ClientIdentity, ref: str, provider_task_id: str) -> Task:
        """Take the provider's id of a task from its owner, and poll it: then it counts. Raises Conflict."""
        task = await self.get(caller, ref)
        return await self._client_polls.attach(caller, task, self._account(task.provider), provider_task_id)

    async def record(self, arrived: Arrived) -> Recorded:
        """Record one callback; committed when it returns."""
        account = self._account(arrived.provider)
        return await self._recorder.apply(RecordCallback(arrived=arrived, account=account.name, rules=self.rules))

    async def poll(self, caller: ClientIdentity, ref: str) -> tuple[Task, str]:
        """Ask the provider about a task now; the sentence says what came of it."""
        task = await self.get(caller, ref)
        return await self._client_polls.poll(caller, task, self._account(task.provider))

    async def resolve(
        self,
        caller: ClientIdentity,
        ref: str,
        *,
        status: Status | None = None,
        provider_task_id: str | None = None,
        note: str = "",
    ) -> Task:
        """Settle a task by hand: rejected, expired, or the provider's ID of an unresolved one.

        Of a task in conflict also the final that is true. Raises Conflict where the provider proved something stronger.
        """
        if provider_task_id is not None and status is None:
            return await self.attach(caller, ref, provider_task_id)
        if status not in SETTLED or provider_task_id is not None:
            statuses = "rejected, expired, or for a conflict succeeded or failed"
            raise InvalidRequest(f"resolve takes either status ({statuses}) or provider_task_id")
        task = await self.get(caller, ref)
        return await self.adoption.resolve(caller, task, self._account(task.provider), status, note)

    async def get(
        self, caller: ClientIdentity, ref: str, *, provider: str | None = None, kind: str | None = None
    ) -> Task:
        """Find a task by our id, the provider's, or the caller's own. Raises NotFound, also for other clients'."""
        task = None
        if identifier(ref) is not None:
            client = None if caller.sees_all else caller.name
            task = await self.store.tasks.find_ref(ref, client=client, provider=provider, kind=kind)
        if task is None:
            raise NotFound("no such task")
        return task

    async def fetch(self, caller: ClientIdentity, ref: str, *, provider: str, kind: str) -> Task:
        """Find a task, or ask the provider once and adopt it. Raises NotFound where neither knows it."""
        account = self._account(provider)
        return await self._client_polls.fetch(caller, account, self._kind(account, kind), ref)

    async def fetch_many(
        self, caller: ClientIdentity, refs: Sequence[str], *, provider: str, kind: str
    ) -> Sequence[Task]:
        """Find several tasks, and ask the provider about all that are not known here; leaves out what nobody knows."""
        account = self._account(provider)
        return await self._client_polls.fetch_many(caller, account, self._kind(account, kind), refs)

    async def find(
        self, wanted: TaskFilter, *, caller: ClientIdentity, limit: int = 50, cursor: str | None = None
    ) -> TaskPage:
        """Return a page of the caller's tasks, newest first."""
        return await self.store.task_pages.page(self._scoped(wanted, caller), limit=limit, cursor=cursor)

    async def find_numbered(
        self, wanted: TaskFilter, *, caller: ClientIdentity, offset: int, limit: int
    ) -> Sequence[Task]:
        """Return a numbered page of the caller's tasks, newest first."""
        return await self.store.task_pages.numbered_page(self._scoped(wanted, caller), offset=offset, limit=limit)

    async def history(self, caller: ClientIdentity, ref: str) -> tuple[Task, Sequence[HistoryEntry]]:
        """Return a task and its kept observations, oldest first."""
        task = await self.get(caller, ref)
        return task, await self.store.tasks.history(task.id)

    async def wait(self, caller: ClientIdentity, ref: str, *, timeout: timedelta) -> Task:  # noqa: ASYNC109 - gives the task, raises nothing
        """Wait until a task is settled, or ``timeout`` is over; give it as it then is."""
        return await self._waiting.settled(caller, ref, most=timeout)

    async def changed(self, caller: ClientIdentity, ref: str, *, since: int | None, most: timedelta) -> Task:
        """Return a task once its version differs from ``since`` (None: the present one), or as it is after ``most``."""
        return await self._waiting.changed(caller, ref, since=since, most=most)

    async def stats(self, caller: ClientIdentity) -> Stats:
        """Count the caller's tasks; the whole store for one that sees all."""
        return await self.store.stats(client=None if caller.sees_all else caller.name, now=self.clock())

    async def habits(self, caller: ClientIdentity) -> Habits:
        """Return what the schedule has learned. It belongs to no client: only keys that see all clients get it."""
        return await self.learner.lately() if caller.sees_all else Habits()

    async def orphans(self, *, limit: int = 100) -> Sequence[Orphan]:
        """Return the callbacks for unknown tasks, latest first."""
        return await self.store.orphans.latest(limit=limit)

    async def check(self) -> list[Check]:
        """Return a check of each part that recording a callback needs."""
        return await self._readiness.check()

    def task_of_token(self, provider: str, token: str) -> str | None:
        """Return the task ID of a valid token, or None."""
        return self._callback_urls.task_of(provider, token)

    async def shared_callback_url(self, provider: str, token: str) -> SharedCallbackUrl | None:
        """Return the shared callback URL that a token belongs to, None if there is none or it was revoked."""
        return await self._callback_urls.shared_url(provider, token)

    async def create_callback_url(
        self, caller: ClientIdentity, *, provider: str, kind: str | None = None, label: str = ""
    ) -> tuple[SharedCallbackUrl, str]:
        """Create a shared callback URL. The URL is returned this once and cannot be read again."""
        account = self._account(provider)
        if kind is not None:
            self._kind(account, kind)
        return await self._callback_urls.create(caller, provider=provider, kind=kind, label=label)

    async def shared_callback_urls(self) -> Sequence[SharedCallbackUrl]:
        """Return all shared callback URLs, revoked ones too."""
        return await self._callback_urls.every()

    async def revoke_callback_url(self, url_id: int, *, by: str = IN_PROCESS) -> SharedCallbackUrl:
        """Revoke a shared callback URL. Requests to it then get 404. Raises NotFound."""
        return await self._callback_urls.revoke(url_id, by=by)

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
    def _scoped(wanted: TaskFilter, caller: ClientIdentity) -> TaskFilter:
        if caller.sees_all:
            return wanted
        if wanted.client not in {None, caller.name}:
            raise InvalidRequest("client: this key sees only its own tasks")
        return replace(wanted, client=caller.name)
