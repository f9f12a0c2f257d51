"""What the API needs of a tracker: the verbs that ``service.tracker.Tracker`` has.

A Protocol, so that what the API may do with the memory can be read here, and so that its tests can stand in for it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from tracker.model.records import (
    AccountState,
    Action,
    AuditEntry,
    Check,
    HistoryEntry,
    Orphan,
    StandingAddress,
    Stats,
    TaskFilter,
    TaskPage,
)
from tracker.model.sinks import Delivery, ReplayFilter, SinkState
from tracker.model.task import Caller, Expected, Status, Task
from tracker.providers.base import Account, Order
from tracker.rules.learning import Habits
from tracker.service.feed import Feed


class SinkVerbs(Protocol):
    """What an operator does about sinks: ``service.sink_admin.Switchboard`` has it."""

    @property
    def named(self) -> Collection[str]: ...

    async def sinks(self) -> Sequence[SinkState]: ...

    async def pause(self, name: str, *, by: str = ...) -> None: ...

    async def resume(self, name: str, *, from_now: bool = False, by: str = ...) -> None: ...

    async def forget(self, name: str, *, by: str = ...) -> None: ...

    async def secrets(self, name: str, client: str | None = None, *, by: str = ...) -> Sequence[str]: ...

    async def deliveries(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        dead: bool | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> Sequence[Delivery]: ...

    async def give_up(
        self,
        *,
        sink: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        dry_run: bool,
        by: str = ...,
    ) -> int: ...

    async def replay(self, name: str, again: ReplayFilter, *, dry_run: bool, by: str = ...) -> int: ...


class AccountVerbs(Protocol):
    """What is known of accounts: ``service.account_watch.AccountWatch`` has it."""

    async def state(self, provider: str, account: str) -> AccountState | None: ...


class AuditVerbs(Protocol):
    """Who did what: ``tracker.storage.audit.AuditStore`` has it."""

    async def entries(
        self, *, client: str | None = None, action: Action | None = None, before: int | None = None, limit: int
    ) -> Sequence[AuditEntry]: ...


class Verbs(Protocol):
    """The tracker as the API sees it. A ``ref`` is our id, the provider's, or the client's own external id."""

    @property
    def providers(self) -> Mapping[str, Account]: ...

    @property
    def source(self) -> str: ...

    @property
    def feed(self) -> Feed: ...

    @property
    def switchboard(self) -> SinkVerbs: ...

    @property
    def watch(self) -> AccountVerbs: ...

    @property
    def audit(self) -> AuditVerbs: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...

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
    ) -> Task: ...

    async def answered(self, task_id: str) -> None: ...

    async def abandoned(self, task: Task) -> None: ...

    async def expect(
        self,
        caller: Caller,
        *,
        provider: str,
        kind: str,
        external_id: str | None = None,
        deadline: timedelta | None = None,
        tags: Sequence[str] = (),
    ) -> Expected: ...

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
    ) -> Task: ...

    async def attach(self, caller: Caller, ref: str, provider_task_id: str) -> Task: ...

    async def get(self, caller: Caller, ref: str, *, provider: str | None = None, kind: str | None = None) -> Task: ...

    async def changed(self, caller: Caller, ref: str, *, since: int | None, most: timedelta) -> Task: ...

    async def fetch(self, caller: Caller, ref: str, *, provider: str, kind: str) -> Task: ...

    async def fetch_many(self, caller: Caller, refs: Sequence[str], *, provider: str, kind: str) -> Sequence[Task]: ...

    async def find(
        self, wanted: TaskFilter, *, caller: Caller, limit: int = 50, cursor: str | None = None
    ) -> TaskPage: ...

    async def find_numbered(self, wanted: TaskFilter, *, caller: Caller, offset: int, limit: int) -> Sequence[Task]: ...

    async def history(self, caller: Caller, ref: str) -> tuple[Task, Sequence[HistoryEntry]]: ...

    async def poll(self, caller: Caller, ref: str) -> tuple[Task, str]: ...

    async def resolve(
        self,
        caller: Caller,
        ref: str,
        *,
        status: Status | None = None,
        provider_task_id: str | None = None,
        note: str = "",
    ) -> Task: ...

    async def stats(self, caller: Caller) -> Stats: ...

    async def habits(self, caller: Caller) -> Habits: ...

    async def orphans(self, *, limit: int = 100) -> Sequence[Orphan]: ...

    async def create_address(
        self, caller: Caller, *, provider: str, kind: str | None = None, label: str = ""
    ) -> tuple[StandingAddress, str]: ...

    async def addresses(self) -> Sequence[StandingAddress]: ...

    async def revoke_address(self, address_id: int, *, by: str = ...) -> StandingAddress: ...

    async def check(self) -> list[Check]: ...
