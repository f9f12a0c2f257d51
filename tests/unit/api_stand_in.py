"""A tracker for the API's own tests: the verbs over a dict, written by hand, with knobs for what should go wrong."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from starlette.types import ASGIApp

from tests.keys import LOCAL_HEADERS
from tests.unit.sinks_stand_in import SinksStandIn
from tracker.errors import Conflict, HomingError, InvalidRequest, NotFound
from tracker.model.event import PublishedEvent
from tracker.model.facts import asset_to_json
from tracker.model.records import (
    AccountState,
    Action,
    AlarmCount,
    AuditEntry,
    Check,
    Completion,
    HistoryEntry,
    Orphan,
    StandingAddress,
    Stats,
    TaskFilter,
    TaskPage,
)
from tracker.model.task import (
    Alarm,
    Asset,
    Caller,
    Expected,
    Fact,
    Source,
    Standing,
    Status,
    Task,
    Trust,
    Verdict,
    new_task_id,
)
from tracker.providers.base import Account, Order
from tracker.providers.kling import Kling
from tracker.rules.learning import Habits, learn
from tracker.service.feed import Feed

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OMNI = "images/omni-image"
TOKEN = "1" + "0a1b2c3d" + "hm0000000000000000000000aa" + "-" + "A" * 22
CALLBACK_URL = f"https://homing.example.com/callbacks/kling/{TOKEN}"


def a_task(number: int = 1, **changes: Any) -> Task:
    at = NOW + timedelta(seconds=number)
    task = Task(
        id=new_task_id(at, number.to_bytes(10, "big")),
        provider="kling",
        kind=OMNI,
        account="kling",
        client="local",
        created_at=at,
        updated_at=at,
        deadline_at=at + timedelta(hours=24),
        origin="gateway",
        request={"prompt": "a cat"},
        status=Status.SUBMITTED,
    )
    return replace(task, **changes)


def a_success(number: int = 1, **changes: Any) -> Task:
    asset = Asset(kind="image", url="https://cdn.example.com/1.png", expires_at=NOW + timedelta(days=30))
    standing = Standing(rank=5, asked=True, success=True)
    facts = {
        "assets": Fact(standing=standing, value=[asset_to_json(asset)]),
        "price": Fact(standing=standing, value={"final_unit_deduction": "8"}),
    }
    return a_task(
        number,
        status=Status.SUCCEEDED,
        standing=standing,
        facts=facts,
        learned_from=Source.POLL,
        learned_trust=Trust.PROVIDER,
        finished_at=NOW,
        provider_task_id=f"8{number:09d}",
        **changes,
    )


def an_entry(body: bytes = b"{}") -> HistoryEntry:
    return HistoryEntry(
        id=1,
        task_id="hm1",
        at=NOW,
        source=Source.CALLBACK,
        trust=Trust.TOKEN,
        word="succeed",
        status=Status.SUCCEEDED,
        verdict=Verdict.MOVED,
        why="submitted → succeeded",
        provider_updated_at=NOW,
        body=body,
    )


HABITS = learn(
    Habits(),
    [
        Completion(
            task_id=f"hm{number}",
            provider="kling",
            kind=OMNI,
            model="kling-v3-omni",
            took=timedelta(seconds=20 + number),
            finished_at=NOW + timedelta(seconds=number),
            asked=True,
            heard=number > 0,
        )
        for number in range(5)
    ],
)
ADDRESS = StandingAddress(
    id=1, provider="kling", kind=None, client="local", created_at=NOW, revoked_at=None, label="studio"
)
ORPHAN = Orphan(
    id=1,
    provider="kling",
    provider_task_id="899",
    external_id=None,
    kind=None,
    client="local",
    address="standing 1",
    word="succeed",
    state="waiting",
    why="not confirmed yet",
    first_at=NOW,
    last_at=NOW,
    deliveries=1,
    checks=0,
    next_check_at=NOW,
    task_id=None,
    body=b"{}",
)
ALARM = AlarmCount(
    kind=Alarm.MISMATCH, provider="kling", hour=NOW, count=2, last_at=NOW, task_id=None, detail="ids that disagree"
)


@dataclass
class Submitted:
    caller: Caller
    order: Order
    idempotency_key: str | None
    tags: tuple[str, ...]


@dataclass
class AccountsStandIn:
    known: AccountState | None = None

    async def state(self, provider: str, account: str) -> AccountState | None:
        del provider, account
        return self.known


@dataclass
class AuditStandIn:
    """Holds entries, newest first."""

    kept: list[AuditEntry] = field(
        default_factory=lambda: [
            AuditEntry(id=2, at=NOW, client="ops", action=Action.REPLAY, object="shop", detail="dead=yes"),
            AuditEntry(id=1, at=NOW, client="local", action=Action.PAUSE_SINK, object="shop"),
        ]
    )
    fails: Exception | None = None

    async def entries(
        self, *, client: str | None = None, action: Action | None = None, before: int | None = None, limit: int
    ) -> Sequence[AuditEntry]:
        if self.fails is not None:
            raise self.fails
        wanted = [one for one in self.kept if client in {None, one.client} and action in {None, one.action}]
        return [one for one in wanted if before is None or one.id < before][:limit]


@dataclass
class StandIn:
    """``fails`` is raised by every verb; ``remote`` are tasks that only the provider knows."""

    tasks: list[Task] = field(default_factory=list)
    remote: list[Task] = field(default_factory=list)
    entries: list[HistoryEntry] = field(default_factory=list)
    fails: Exception | None = None
    checks: list[Check] = field(default_factory=lambda: [Check(name="database", ok=True, detail="answers")])
    submitted: list[Submitted] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    told: list[PublishedEvent] = field(default_factory=list)
    switchboard: SinksStandIn = field(default_factory=SinksStandIn)
    audit: AuditStandIn = field(default_factory=AuditStandIn)
    watch: AccountsStandIn = field(default_factory=AccountsStandIn)
    source: str = "https://homing.example.com"
    kept_from: int = 0
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        self.feed = Feed(self)

    async def events(self, *, after: int, limit: int) -> Sequence[PublishedEvent]:
        return [told for told in self.told if told.cursor > after][:limit]

    async def latest(self) -> int:
        self._fail()
        return self.told[-1].cursor if self.told else self.kept_from

    async def given(self) -> int:
        return await self.latest()

    async def horizon(self) -> int:
        return self.kept_from

    @property
    def providers(self) -> Mapping[str, Account]:
        return {"kling": Account(name="kling", provider=Kling(), base_url="http://127.0.0.1:1", credential=None)}

    def clock(self) -> datetime:
        return NOW

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails

    def _kind(self, provider: str, kind: str) -> None:
        if provider not in self.providers or kind not in self.providers[provider].provider.kinds:
            raise InvalidRequest("no such provider or kind")

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
        assert answered_later
        del provider, deadline
        if self.gate is not None:
            await self.gate.wait()
        self._fail()
        self.submitted.append(Submitted(caller, order, idempotency_key, tuple(tags)))
        task = a_task(
            len(self.tasks) + 1,
            client=caller.name,
            external_id=order.external_id,
            request=order.shown,
            status=Status.PENDING,
        )
        self.tasks.append(task)
        return task

    async def answered(self, task_id: str) -> None:
        self.answers.append(task_id)

    async def abandoned(self, task: Task) -> None:
        self.left.append(task.id)

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
        self._fail()
        self._kind(provider, kind)
        task = a_task(client=caller.name, kind=kind, external_id=external_id, tags=tuple(tags), origin="expect")
        if deadline is not None:
            task = replace(task, deadline_at=task.created_at + deadline)
        self.tasks.append(task)
        return Expected(task=task, callback_url=CALLBACK_URL)

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
    ) -> Task:
        del deadline
        self._fail()
        self._kind(provider, kind)
        task = a_task(
            client=caller.name,
            kind=kind,
            provider_task_id=provider_task_id,
            external_id=external_id,
            tags=tuple(tags),
            origin="adopt",
        )
        self.tasks.append(task)
        return task

    async def attach(self, caller: Caller, ref: str, provider_task_id: str) -> Task:
        task = await self.get(caller, ref)
        if task.provider_task_id not in {None, provider_task_id}:
            raise Conflict("another provider id is known")
        return replace(task, provider_task_id=provider_task_id)

    async def get(self, caller: Caller, ref: str, *, provider: str | None = None, kind: str | None = None) -> Task:
        self._fail()
        for task in self.tasks:
            named = ref in {task.id, task.provider_task_id, task.external_id}
            seen = caller.sees_all or task.client == caller.name
            if named and seen and provider in {None, task.provider} and kind in {None, task.kind}:
                return task
        raise NotFound("no such task")

    async def changed(self, caller: Caller, ref: str, *, since: int | None, most: timedelta) -> Task:
        del since, most
        if self.gate is not None:
            await self.gate.wait()
        return await self.get(caller, ref)

    async def fetch_many(self, caller: Caller, refs: Sequence[str], *, provider: str, kind: str) -> Sequence[Task]:
        found = []
        for ref in refs:
            with suppress(NotFound):
                found.append(await self.fetch(caller, ref, provider=provider, kind=kind))
        return found

    async def fetch(self, caller: Caller, ref: str, *, provider: str, kind: str) -> Task:
        try:
            return await self.get(caller, ref, provider=provider, kind=kind)
        except NotFound:
            self.asked.append(ref)
            for task in self.remote:
                if ref == task.provider_task_id:
                    self.tasks.append(task)
                    return task
            raise

    async def find(self, wanted: TaskFilter, *, caller: Caller, limit: int = 50, cursor: str | None = None) -> TaskPage:
        start = int(cursor or 0)
        fits = await self.find_numbered(wanted, caller=caller, offset=start, limit=limit + 1)
        more = str(start + limit) if len(fits) > limit else None
        return TaskPage(tasks=tuple(fits[:limit]), next_cursor=more)

    async def find_numbered(self, wanted: TaskFilter, *, caller: Caller, offset: int, limit: int) -> Sequence[Task]:
        assert caller.sees_all or wanted.client == caller.name
        self._fail()
        fits = [
            task
            for task in sorted(self.tasks, key=lambda task: task.id, reverse=True)
            if wanted.client in {None, task.client}
            and (not wanted.statuses or task.status in wanted.statuses)
            and wanted.provider in {None, task.provider}
            and wanted.kind in {None, task.kind}
            and (wanted.tag is None or wanted.tag in task.tags)
            and (wanted.created_after is None or task.created_at >= wanted.created_after)
            and (wanted.created_before is None or task.created_at < wanted.created_before)
        ]
        return fits[offset : offset + limit]

    async def history(self, caller: Caller, ref: str) -> tuple[Task, Sequence[HistoryEntry]]:
        return await self.get(caller, ref), self.entries

    async def poll(self, caller: Caller, ref: str) -> tuple[Task, str]:
        return await self.get(caller, ref), "the provider says what is known"

    async def resolve(
        self,
        caller: Caller,
        ref: str,
        *,
        status: Status | None = None,
        provider_task_id: str | None = None,
        note: str = "",
    ) -> Task:
        task = await self.get(caller, ref)
        if status is not None:
            return replace(task, status=status, reason=note or None)
        return replace(task, provider_task_id=provider_task_id)

    async def stats(self, caller: Caller) -> Stats:
        self._fail()
        mine = [task for task in self.tasks if caller.sees_all or task.client == caller.name]
        return Stats(
            by_status={"submitted": len(mine)},
            open=len(mine),
            due=0,
            oldest_open_at=None,
            finished_by_source={},
            deliveries=0,
            duplicates=0,
            hints=0,
            polls=0,
            orphans_not_kept=0,
            orphans={},
            alarms=(ALARM,),
        )

    async def habits(self, caller: Caller) -> Habits:
        return HABITS if caller.sees_all else Habits()

    async def orphans(self, *, limit: int = 100) -> Sequence[Orphan]:
        return [ORPHAN][:limit]

    async def create_address(
        self, caller: Caller, *, provider: str, kind: str | None = None, label: str = ""
    ) -> tuple[StandingAddress, str]:
        return replace(ADDRESS, provider=provider, kind=kind, client=caller.name, label=label), CALLBACK_URL

    async def addresses(self) -> Sequence[StandingAddress]:
        return [ADDRESS]

    async def revoke_address(self, address_id: int, *, by: str = "") -> StandingAddress:
        self.switchboard.by.append(by)
        if address_id != ADDRESS.id:
            raise NotFound("no such address")
        return replace(ADDRESS, revoked_at=NOW)

    async def check(self) -> list[Check]:
        if isinstance(self.fails, HomingError):
            raise self.fails
        return self.checks


def asking(
    app: ASGIApp, *, base_url: str = "http://127.0.0.1:8000", anonymous: bool = False, **options: Any
) -> httpx.AsyncClient:
    """A client of ``app`` in this process; an exception that reaches the server fails the test.

    It shows the key of the tests unless the headers have another, or it is ``anonymous``.
    """
    headers = options.pop("headers", {})
    options["headers"] = headers if anonymous else LOCAL_HEADERS | headers
    transport = httpx.ASGITransport(app, client=options.pop("client", ("127.0.0.1", 50000)))
    return httpx.AsyncClient(transport=transport, base_url=base_url, **options)
