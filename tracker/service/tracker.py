"""The Tracker: all methods that users, the receiver, the API and the loops call. Each runs one transaction.

The constructor does no I/O. ``async with`` opens the database and starts the recorder. It closes everything at the end.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from random import Random
from types import TracebackType
from typing import Self

from tracker.errors import InvalidRequest
from tracker.model.clock import Monotonic, RandomBytes
from tracker.model.event import NO_SOURCE
from tracker.model.records import IN_PROCESS, Arrived, Check, SharedCallbackUrl
from tracker.model.sinks import SinkSpec
from tracker.model.targets import PUBLIC_ONLY, Allowed
from tracker.model.task import EMPTY, SETTLED, ClientIdentity, Created, Expected, Recorded, Status, Task, Trust
from tracker.model.untrusted import JsonObject
from tracker.providers.base import Account, Order
from tracker.rules.callbacks import RecordCallback
from tracker.rules.outcomes import Rules
from tracker.rules.schedule import Policy
from tracker.service.adoption import Adoption, TrackRequest
from tracker.service.arguments import account_named, kind_named
from tracker.service.budget import Budgets
from tracker.service.callback_urls import CallbackUrls
from tracker.service.client_polls import ClientPolls
from tracker.service.creation import CreateRequest, Creation
from tracker.service.feed import Feed
from tracker.service.helper_calls import HelperCalls
from tracker.service.intake import Intake
from tracker.service.learner import Learner
from tracker.service.polling import Poller
from tracker.service.readiness import Readiness
from tracker.service.recorder import Recorder
from tracker.service.restoration import Restoration
from tracker.service.sink_admin import SinkAdmin
from tracker.service.sink_secrets import SinkSecrets
from tracker.service.submission import Submission, SubmitRequest
from tracker.service.task_reads import TaskReads
from tracker.service.waiting import Waiting
from tracker.storage.store import Store
from tracker.transport import Sender


class Tracker(TaskReads):
    """The methods over all tasks. Each checks what the client may do, and delegates the work to one part."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Mapping[str, Account],
        public_url: str | None,
        callback_secrets: Sequence[bytes],
        thresholds: Mapping[str, Trust],
        policy: Policy,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
        random_bytes: RandomBytes,
        transport: Sender,
        sink_secrets: SinkSecrets,
        source: str = NO_SOURCE,
        sinks: Sequence[SinkSpec] = (),
        allowed_targets: Allowed = PUBLIC_ONLY,
        helper_groups: Collection[str] = (),
    ) -> None:
        self.providers = accounts
        self._account = partial(account_named, accounts)
        self.clock = clock
        self.monotonic = monotonic
        self.random_bytes = random_bytes
        self.policy = policy
        self.owner = random_bytes(8).hex()
        self.store = store
        self._readiness = Readiness(store=store, clock=clock, failing=lambda: self._recorder.trouble)
        self.learner = Learner(store=store, accounts=accounts, policy=policy, clock=clock, monotonic=monotonic)
        self.rules = rules = Rules(
            policy=policy,
            thresholds=thresholds,
            random=Random(random_bytes(16)).random,  # noqa: S311 - spreads due times, and is used for every callback
            owner=self.owner,
            habits=lambda: self.learner.habits,
        )
        self.source = source
        self.feed = Feed(store.events, notices=store.notices, scan_interval=policy.feed_scan_interval)
        self.audit = store.audit
        self.sink_secrets = sink_secrets
        self.sink_admin = SinkAdmin(store, sinks, sink_secrets, clock=clock, committed=self.feed.signal_commit)
        self._waiting = Waiting(feed=self.feed, get=self.get)
        self._recorder = recorder = Recorder(store, committed=self.feed.signal_commit)
        self._transport = transport
        self._callback_urls = urls = CallbackUrls(
            store=store, public_url=public_url, secrets=callback_secrets, clock=clock, random_bytes=random_bytes
        )
        urls, recorder = self._callback_urls, self._recorder
        self._restoration = Restoration(
            store, feed=self.feed, learner=self.learner, callback_urls=urls, recorder=recorder, clock=clock
        )
        self.poller = Poller(
            store, recorder=recorder, transport=transport, rules=rules, clock=clock, monotonic=monotonic, urls=urls
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
            random_bytes=random_bytes,
        )
        ids = [account.id for account in accounts.values()]
        self.budgets = Budgets(ids, policy.budget, clock(), client_per_minute=policy.client_budget)
        self._client_polls = ClientPolls(
            poller=self.poller, adoption=self.adoption, budgets=self.budgets, policy=policy, clock=clock
        )
        self.helpers = HelperCalls(
            store, recorder, transport, self.watch, self.budgets, rules=rules, clock=clock, groups=helper_groups
        )
        self.intake = Intake(
            store=store,
            recorder=self._recorder,
            submission=self.submission,
            owners=self.helpers.owners,
            rules=self.rules,
            clock=clock,
            callbacks=public_url is not None,
            random_bytes=random_bytes,
        )
        self._creation = Creation(accounts, allowed_targets)

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
        """Finish the submissions in progress, commit the queue, then close."""
        await self._restoration.close()
        await self.feed.close()
        await self._client_polls.close()
        await self.helpers.close()
        await self.intake.finish()
        await self.watch.close()
        await self._readiness.close()
        await self._recorder.close()
        await self._transport.close()
        await self.store.close()

    async def create(self, client: ClientIdentity, request: CreateRequest) -> Created:
        """Submit a task at any provider once. ``submit`` does the same with a request in the provider's own form.

        Raises InvalidRequest, and the exceptions of ``submit``.
        """
        return await self.intake.submit(self.prepare(client, request))

    def prepare(self, client: ClientIdentity, request: CreateRequest, *, answered_later: bool = False) -> SubmitRequest:
        """Validate a create request for the intake. A large one takes a while. Raises InvalidRequest."""
        return self._creation.prepare(client, request, answered_later=answered_later)

    async def submit(
        self,
        client: ClientIdentity,
        provider: str,
        order: Order,
        *,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] = EMPTY,
        idempotency_key: str | None = None,
        deadline: timedelta | None = None,
        answered_later: bool = False,
    ) -> Task:
        """Submit a task once. Return it when the provider has it or may have it, within ``policy.answer_within``.

        With ``answered_later`` you call ``answered`` when your client has the response. Until then, the same body
        repeated after a crash gets the same task. The submission continues if you stop waiting.

        Raises Refused, CredentialRefused and ProviderUnavailable (nothing was created, and nothing will be), Conflict
        (an ID was used with another body), StoreUnavailable, Overloaded and CredentialMissing (nothing was sent).
        """
        account = self._account(provider)
        created = await self.intake.submit(
            SubmitRequest(
                client=client,
                account=account,
                kind=kind_named(account, order.kind),
                order=order,
                tags=tags,
                metadata=metadata,
                idempotency_key=idempotency_key,
                deadline=deadline,
                answered_later=answered_later,
            )
        )
        return created.task

    def order(self, provider: str, kind: str, body: JsonObject, *, model: str = "") -> Order:
        """Validate a create request. A ``model`` is from the path. Raises InvalidRequest, which names the field."""
        account = self._account(provider)
        return account.provider.order(kind_named(account, kind).name, body, model=model)

    async def answered(self, task_id: str) -> None:
        """Record that the response to a submission was sent to the client. A failed write is retried."""
        await self.intake.answered(task_id)

    async def abandoned(self, task: Task) -> None:
        """Record that the client left before it had the response. A failed write is retried."""
        await self.intake.abandoned(task)

    async def expect(
        self,
        client: ClientIdentity,
        *,
        provider: str,
        kind: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] = EMPTY,
    ) -> Expected:
        """Record a task before your own code submits it. Return it with its callback URL.

        ``external_id`` is the one that you will send to the provider. Callbacks and lookups are matched by it until the
        provider task ID is known. Raises Conflict if another task has it.
        """
        account = self._account(provider)
        return await self.adoption.expect(
            TrackRequest(
                client=client,
                account=account,
                kind=kind_named(account, kind),
                external_id=external_id,
                deadline=deadline,
                tags=tags,
                metadata=metadata,
                origin="expect",
            )
        )

    async def adopt(
        self,
        client: ClientIdentity,
        *,
        provider: str,
        kind: str,
        provider_task_id: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] = EMPTY,
    ) -> Task:
        """Track a task that already runs at the provider. Raises NotFound if the provider does not know it."""
        account = self._account(provider)
        request = TrackRequest(
            client=client,
            account=account,
            kind=kind_named(account, kind),
            external_id=external_id,
            deadline=deadline,
            tags=tags,
            metadata=metadata,
        )
        return await self._client_polls.adopt(request, provider_task_id)

    async def attach(self, client: ClientIdentity, ref: str, provider_task_id: str) -> Task:
        """Poll the provider task ID that a client attaches to its task. It counts once confirmed. Raises Conflict."""
        task = await self.get(client, ref)
        return await self._client_polls.attach(client, task, self._account(task.provider), provider_task_id)

    async def record(self, arrived: Arrived) -> Recorded:
        """Record one callback. It is committed when this returns."""
        account = self._account(arrived.provider)
        return await self._recorder.apply(RecordCallback(arrived=arrived, account=account.name, rules=self.rules))

    async def poll(self, client: ClientIdentity, ref: str) -> tuple[Task, str]:
        """Poll a task now. Return it with a sentence about the outcome."""
        task = await self.get(client, ref)
        return await self._client_polls.poll(client, task, self._account(task.provider))

    async def resolve(
        self,
        client: ClientIdentity,
        ref: str,
        *,
        status: Status | None = None,
        provider_task_id: str | None = None,
        note: str = "",
    ) -> Task:
        """Resolve a task manually: as rejected or expired, or by the provider task ID of an unresolved one.

        A task in conflict also takes the true final status. Raises Conflict if a verified report contradicts.
        """
        if provider_task_id is not None and status is None:
            return await self.attach(client, ref, provider_task_id)
        if status not in SETTLED or provider_task_id is not None:
            statuses = "rejected, expired, or for a conflict succeeded or failed"
            raise InvalidRequest(f"resolve takes either status ({statuses}) or provider_task_id")
        task = await self.get(client, ref)
        return await self.adoption.resolve(client, task, self._account(task.provider), status, note)

    async def fetch(self, client: ClientIdentity, ref: str, *, provider: str, kind: str) -> Task:
        """Return a task, or poll the provider once and adopt it. Raises NotFound if neither knows it."""
        account = self._account(provider)
        return await self._client_polls.fetch(client, account, kind_named(account, kind), ref)

    async def fetch_many(
        self, client: ClientIdentity, refs: Sequence[str], *, provider: str, kind: str
    ) -> Sequence[Task]:
        """Return several tasks. Poll the provider for the unknown ones. Leave out tasks that it does not know."""
        account = self._account(provider)
        return await self._client_polls.fetch_many(client, account, kind_named(account, kind), refs)

    async def wait(self, client: ClientIdentity, ref: str, *, timeout: timedelta) -> Task:  # noqa: ASYNC109 - returns the task, raises nothing
        """Return a task as soon as it is settled, or as it is after ``timeout``."""
        return await self._waiting.settled(client, ref, most=timeout)

    async def changed(self, client: ClientIdentity, ref: str, *, since: int | None, most: timedelta) -> Task:
        """Return a task once its version differs from ``since`` (None: the present one), or as it is after ``most``."""
        return await self._waiting.changed(client, ref, since=since, most=most)

    async def check(self) -> list[Check]:
        """Return a check of each part that recording a callback needs."""
        return await self._readiness.check()

    def task_of_token(self, provider: str, token: str) -> str | None:
        """Return the task ID of a valid token, or None."""
        return self._callback_urls.task_of(provider, token)

    async def shared_callback_url(self, provider: str, token: str) -> SharedCallbackUrl | None:
        """Return the shared callback URL of a token, or None if there is none or it was revoked."""
        return await self._callback_urls.shared_url(provider, token)

    async def create_callback_url(
        self, client: ClientIdentity, *, provider: str, kind: str | None = None, label: str = ""
    ) -> tuple[SharedCallbackUrl, str]:
        """Create a shared callback URL. The URL is returned this once and cannot be read again."""
        account = self._account(provider)
        if kind is not None:
            kind_named(account, kind)
        return await self._callback_urls.create(client, provider=provider, kind=kind, label=label)

    async def shared_callback_urls(self) -> Sequence[SharedCallbackUrl]:
        """Return all shared callback URLs, revoked ones too."""
        return await self._callback_urls.every()

    async def revoke_callback_url(self, url_id: int, *, by: str = IN_PROCESS) -> SharedCallbackUrl:
        """Revoke a shared callback URL. Requests to it then get 404. Raises NotFound."""
        return await self._callback_urls.revoke(url_id, by=by)
