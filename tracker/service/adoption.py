"""Tasks that Homing does not submit: expected before, adopted after, or found at the provider."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import NotFound, ProviderUnavailable
from tracker.model.changes import Audited, Work
from tracker.model.clock import Monotonic, RandomBytes
from tracker.model.records import Action
from tracker.model.task import ClientIdentity, Expected, IdSource, Status, Task, new_task_id
from tracker.model.untrusted import identifier
from tracker.providers.base import Account, Found, Kind, Missing
from tracker.rules import schedule
from tracker.rules.identity import Attach
from tracker.rules.outcomes import Rules, begun
from tracker.rules.polls import Resolve
from tracker.rules.submits import RecordConfirmed, RecordExpected
from tracker.service.arguments import bounded, checked_metadata, distinct_tags
from tracker.service.callback_urls import CallbackUrls
from tracker.service.polling import Poll, Poller
from tracker.service.recorder import Recorder
from tracker.storage.store import Store

ADOPT: Final = "adopt"
ABSENT_FOR: Final = timedelta(seconds=10)
ABSENT_BOUND: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRequest:
    """A task that a client wants tracked and that Homing does not submit."""

    client: ClientIdentity
    account: Account
    kind: Kind
    external_id: str | None = None
    deadline: timedelta | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: str = ADOPT


class Adoption:
    """Records tasks that Homing did not submit."""

    def __init__(
        self,
        *,
        store: Store,
        recorder: Recorder,
        poller: Poller,
        callback_urls: CallbackUrls,
        rules: Rules,
        clock: Callable[[], datetime],
        monotonic: Monotonic,
        random_bytes: RandomBytes,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._poller = poller
        self._callback_urls = callback_urls
        self._rules = rules
        self._clock = clock
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._absent: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def expect(self, request: TrackRequest) -> Expected:
        """Record a task before its client submits it. Raises Conflict if a row has its external ID."""
        task = self._row(request)
        written = await self._recorder.apply(RecordExpected(task=task))
        return Expected(task=written, callback_url=self._callback_urls.of_task(written))

    async def found(
        self, client: ClientIdentity, account: Account, ref: str, *, kind: str | None = None
    ) -> Task | None:
        """Return the client's task with this ID. If ``kind`` is None, any kind matches."""
        if identifier(ref) is None:
            raise NotFound("no such task")
        client_name = None if client.sees_all else client.name
        return await self._store.tasks.find_ref(ref, client=client_name, provider=account.provider.name, kind=kind)

    async def known(self, request: TrackRequest, provider_task_id: str) -> Task | None:
        """Return a task that has a row, or None if Homing must poll the provider.

        Raises NotFound if another client owns the row, or if the provider answered not found a moment ago.
        """
        ref = bounded(provider_task_id, "provider_task_id")
        client, account = request.client, request.account
        known = await self._store.tasks.find_ref(ref, client=None, provider=account.provider.name)
        if known is not None:
            named = ref in {known.id, known.provider_task_id}
            if known.client == client.name or client.sees_all:
                if named or ref == known.sent_external_id:
                    return known
            elif named:
                raise NotFound(f"the provider has no task {ref}")
        if self._monotonic() < self._absent.get((account.id, request.kind.name, ref), float("-inf")):
            raise NotFound(f"the provider has no task {ref}")
        return None

    async def adopt(self, request: TrackRequest, provider_task_id: str) -> Task:
        """Poll the provider about a task that is not ``known``, and adopt it.

        Raises NotFound if the provider does not know the task, or if another client owns it.
        """
        ref = bounded(provider_task_id, "provider_task_id")
        client, account, kind = request.client, request.account, request.kind.name
        outcome = await self._poller.query(account, kind, ref)
        if isinstance(outcome, Missing):
            self._remember_absent((account.id, kind, ref))
            raise NotFound(f"the provider has no task {ref}")
        if not isinstance(outcome, Found):
            raise ProviderUnavailable("Homing could not get the task from the provider. Try again later")
        task = await self.take(request, outcome)
        if task.client != client.name and not client.sees_all:
            raise NotFound(f"the provider has no task {ref}")
        return task

    async def take(self, request: TrackRequest, found: Found) -> Task:
        """Record a task that the provider has just confirmed, with its report.

        If a row already waits for this task, return that row, whichever client it belongs to.
        """
        if (own := await self.awaited(request.account, found)) is not None:
            poll = Poll(task=own, account=request.account, at=self._clock())
            if (after := (await self._poller.record(poll, found)).task).provider_task_id is not None:
                return after
        task = self._row(request, found)
        work: Work[Task] = RecordConfirmed(task=task, named=request.external_id is not None)
        if request.client.sees_all and request.origin == ADOPT:
            detail = f"provider_task_id={found.report.provider_task_id or ''}"
            work = self._audited(work, request.client, Action.ADOPT, detail)
        written = await self._recorder.apply(work)
        answer = await self._poller.record(Poll(task=written, account=request.account, at=self._clock()), found)
        return answer.task

    async def awaited(self, account: Account, found: Found) -> Task | None:
        """Return the row without a provider ID whose own callback URL the provider has for the task, or None."""
        task_id = self._poller.addressee(account, found)
        if task_id is None:
            return None
        task = await self._store.tasks.get(task_id)
        waits = task is not None and (task.provider, task.account) == (account.provider.name, account.name)
        return task if waits and task is not None and task.provider_task_id is None else None

    async def attach(self, client: ClientIdentity, task: Task, account: Account, provider_task_id: str) -> Task:
        """Attach the provider ID from the task's owner, and poll at once to confirm it.

        Without a credential Homing cannot poll, and accepts the ID unconfirmed. Raises Conflict if the task has another
        provider ID, or another task has this one.
        """
        value = bounded(provider_task_id, "provider_task_id")
        confirmable = account.credential is not None
        work: Work[Task] = Attach(
            task=task, provider_task_id=value, now=self._clock(), confirmable=confirmable, rules=self._rules
        )
        if client.sees_all:
            work = self._audited(work, client, Action.ATTACH, f"provider_task_id={value}")
        attached = await self._recorder.apply(work)
        return (await self._poller.poll(attached, account)).task if confirmable else attached

    async def resolve(self, client: ClientIdentity, task: Task, account: Account, status: Status, note: str) -> Task:
        """Record a manual resolution and its author.

        Raises Conflict if a stronger report of the provider contradicts it.
        """
        work = Resolve(
            task_id=task.id,
            status=status,
            note=note,
            now=self._clock(),
            lifetime=account.provider.capabilities.result_lifetime,
            rules=self._rules,
        )
        return await self._recorder.apply(self._audited(work, client, Action.RESOLVE, f"status={status.value}"))

    def _audited(self, work: Work[Task], client: ClientIdentity, action: Action, detail: str) -> Audited:
        return Audited(work=work, at=self._clock(), client=client.name, action=action, detail=detail)

    def _row(self, request: TrackRequest, found: Found | None = None) -> Task:
        now = self._clock()
        account, kind = request.account, request.kind
        report = found.report if found is not None else None
        external_id = None if request.external_id is None else bounded(request.external_id, "external_id")
        if external_id is None and report is not None:
            external_id = report.external_id
        policy = self._rules.policy
        task = Task(
            id=new_task_id(now, self._random_bytes(10)),
            provider=account.provider.name,
            kind=kind.name,
            account=account.name,
            client=request.client.name,
            origin=request.origin,
            created_at=now,
            updated_at=now,
            deadline_at=now + (request.deadline or schedule.deadline_for(kind.name, kind.deadline, policy)),
            external_id=external_id,
            # The external ID at the provider. The client may use another one.
            sent_external_id=(report.external_id if report is not None else external_id)
            if kind.takes_external_id
            else None,
            provider_task_id=report.provider_task_id if report is not None else None,
            unproven_id_from=IdSource.OWNER if report is not None and report.external_id is None else None,
            tags=distinct_tags(request.tags),
            metadata=checked_metadata(request.metadata),
            callback_requested=self._callback_urls.available and request.origin == "expect",
            answered_at=now,
        )
        return begun(task, now=now, rules=self._rules)

    def _remember_absent(self, key: tuple[str, str, str]) -> None:
        """Remember an absent ID for a while, so that polls for an unknown ID do not cause a stream of requests."""
        self._absent[key] = self._monotonic() + ABSENT_FOR.total_seconds()
        self._absent.move_to_end(key)
        while len(self._absent) > ABSENT_BOUND:
            self._absent.popitem(last=False)
