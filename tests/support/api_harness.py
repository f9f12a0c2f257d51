"""The API in this process, over a real Tracker on a SQLite file; the provider is ``RecordedKling``."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
from starlette.types import ASGIApp

from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.builders import NOW, writing
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling, Made
from tests.support.published_events import a_success
from tracker.api import Access, Limits, create_api
from tracker.app import create_tracker, sinks_of
from tracker.model.changes import Entry, RaisedAlarm
from tracker.model.records import TaskFilter
from tracker.model.sinks import SinkSpec
from tracker.model.task import Alarm, ClientIdentity, Event, Task
from tracker.providers.base import Account, Call, Reply
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

PUBLIC_URL: Final = "https://homing.example.com"
OPERATOR: Final = ClientIdentity(name="local", sees_all=True)
T = TypeVar("T")
CONDITION_LIMIT_SECONDS: Final = 20


@dataclass(kw_only=True)
class RecordedKling(FakeKling):
    """The provider's side: keeps each call, holds answers back while ``gate`` is closed, and may answer ``always``."""

    clock: Clock = field(default_factory=Clock)
    calls: list[Call] = field(default_factory=list)
    gate: asyncio.Event | None = None
    always: Reply | Exception | None = None

    @property
    def creates(self) -> list[dict[str, Any]]:
        """The bodies of the create requests, without the ID and the callback URL that Homing chooses."""
        bodies = [json.loads(call.body) for call in self.calls if call.method == "POST"]
        chosen = {"external_task_id", "callback_url"}
        return [{name: value for name, value in body.items() if name not in chosen} for body in bodies]

    @property
    def queried(self) -> list[str]:
        """The IDs of the polled tasks."""
        return [call.path.rpartition("/")[2] for call in self.calls if call.method == "GET"]

    def add(self, task_id: str, *, external_id: str = "theirs", status: str = "submitted") -> Made:
        """Let the provider have a task that Homing did not submit."""
        made = Made(id=task_id, external_id=external_id, prompt="a cat", made_at=self.clock(), status=status)
        self.ledger.append(made)
        return made

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.always, Exception):
            raise self.always
        return self.always or await super().send(account, call, now=now, within=within)


def settings_of(url: str, **changes: Any) -> Settings:
    """Make the settings of a test."""
    usual = {"database_url": url, "public_url": PUBLIC_URL, "kling_api_key": "made-up-kling-key"}
    return Settings.model_validate(usual | changes)


def create_test_tracker(settings: Settings, provider: RecordedKling, policy: Policy | None = None) -> Tracker:
    """Make a tracker on the clock of its provider; it is not open."""
    clock = provider.clock
    return create_tracker(settings, policy=policy, clock=clock, monotonic=clock.monotonic, transport=provider)


def closed_tracker(**settings: Any) -> Tracker:
    """Create a tracker whose database is not open: every access raises StoreUnavailable."""
    return create_test_tracker(settings_of("sqlite:////nowhere/homing.db", **settings), RecordedKling())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiHarness:
    """An open tracker, and its provider."""

    settings: Settings
    tracker: Tracker
    provider: RecordedKling

    def client(
        self, access: Access = LOCAL_ACCESS, *, limits: Limits | None = None, **options: Any
    ) -> httpx.AsyncClient:
        """Return a client of the API over the tracker; see ``api_client``."""
        return api_client(create_api(self.tracker, access, limits=limits or Limits()), **options)

    async def add(self, *tasks: Task, entries: Sequence[Entry] = (), events: Sequence[Event] = ()) -> None:
        """Record tasks as they are; ``entries`` and ``events`` belong to the last of them."""
        works = [writing(task) for task in tasks[:-1]]
        works.append(writing(tasks[-1], entries=tuple(entries), events=tuple(events)))
        await self.tracker.store.apply(works)

    async def raise_alarm(self, detail: str) -> None:
        """Record an alarm that belongs to no task."""
        alarm = RaisedAlarm(kind=Alarm.MISMATCH, provider="kling", at=NOW, task_id=None, detail=detail)
        await self.tracker.store.apply([writing(result=None, alarms=(alarm,))])

    async def tasks(self) -> Sequence[Task]:
        """Return every task, oldest first."""
        page = await self.tracker.store.task_pages.page(TaskFilter(), limit=200, cursor=None)
        return page.tasks[::-1]

    async def register_sinks(self, *others: SinkSpec) -> None:
        """Record the sinks that the settings name, as the relay does when it starts, and others."""
        named = [new for new, _ in sinks_of(self.settings, self.tracker)]
        await self.tracker.store.sinks.register([*named, *others], now=NOW)


@asynccontextmanager
async def api_harness(folder: Path, *, policy: Policy | None = None, **settings: Any) -> AsyncIterator[ApiHarness]:
    """Open a tracker on the database of a folder."""
    provider, chosen = RecordedKling(), settings_of(sqlite_url(folder), **settings)
    async with create_test_tracker(chosen, provider, policy) as tracker:
        yield ApiHarness(settings=chosen, tracker=tracker, provider=provider)


@dataclass(frozen=True, slots=True)
class SharedApi:
    """An API that several tests, or many examples of one, share: it has an event loop of its own."""

    api: ApiHarness
    run: Callable[[Coroutine[Any, Any, T]], T]


@contextmanager
def shared_api(opening: AbstractAsyncContextManager[ApiHarness]) -> Iterator[SharedApi]:
    """Open an API for the time of a module."""
    with asyncio.Runner() as runner:
        api = runner.run(opening.__aenter__())
        try:
            yield SharedApi(api, runner.run)
        finally:
            runner.run(opening.__aexit__(None, None, None))


def api_client(
    app: ASGIApp, *, base_url: str = "http://127.0.0.1:8000", anonymous: bool = False, **options: Any
) -> httpx.AsyncClient:
    """Return a client of ``app`` in this process; an exception that reaches the server fails the test.

    It sends the key of the tests unless the headers have another, or it is ``anonymous``.
    """
    headers = options.pop("headers", {})
    options["headers"] = headers if anonymous else LOCAL_HEADERS | headers
    transport = httpx.ASGITransport(app, client=options.pop("client", ("127.0.0.1", 50000)))
    return httpx.AsyncClient(transport=transport, base_url=base_url, **options)


def closed_client(access: Access = LOCAL_ACCESS, *, limits: Limits | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of the API over a closed tracker, for requests that are answered before a row is needed."""
    app = _usual_closed_api() if access is LOCAL_ACCESS and limits is None else None
    return api_client(app or create_api(closed_tracker(), access, limits=limits or Limits()), **options)


@cache
def _usual_closed_api() -> ASGIApp:
    # It keeps nothing of a request. To make it takes longer than most requests.
    return create_api(closed_tracker(), LOCAL_ACCESS)


def kling_error(status: int, code: int, message: str) -> Reply:
    """Make an error answer of the provider."""
    return Reply(status=status, body=json.dumps({"code": code, "message": message, "request_id": "r-1"}).encode())


def five_finished_tasks() -> list[Task]:
    """Make tasks that ran 20 to 24 s, and whose callbacks came, but for the first."""
    tasks = []
    for number in range(5):
        submitted_at, took = NOW - timedelta(hours=1), timedelta(seconds=20 + number)
        ended_at = submitted_at + took
        tasks.append(
            a_success(
                number + 1,
                model="kling-v3-omni",
                submitted_at=submitted_at,
                finished_at=ended_at,
                callback_requested=True,
                last_observed_at=ended_at if number else None,
            )
        )
    return tasks
