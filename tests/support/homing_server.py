"""Homing put together from its public composition roots, with a policy, a store and a clock of the test's own."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

from homing.serve import access_of, relay_of
from homing.server.web_server import address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.api_keys import LOCAL_KEY
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.provider_proxy import NO_TLS
from tracker.api import routes as api_routes
from tracker.app import create_tracker, reconciler_of, sinks_of
from tracker.loops.reconciler import Reconciler
from tracker.model.changes import Change, RecordChange
from tracker.model.task import SETTLED, ClientIdentity, Task
from tracker.model.untrusted import JsonObject
from tracker.rules.schedule import Policy
from tracker.service.lookups import lookup_seen
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store

CREATE = "/kling/v1/images/omni-image"
CAT: JsonObject = {"prompt": "a cat", "model_name": "kling-v3-omni"}
ANYBODY = ClientIdentity(name="local", sees_all=True)
KIND = "images/omni-image"
# Delays at a real provider are shortened, counts are not. Call timeouts stay long enough for a slow machine, because a
# call that gets an answer does not wait for them.
SHORT = Policy(
    answer_within=timedelta(seconds=10),
    attempt=timedelta(seconds=8),
    query=timedelta(seconds=3),
    lease_margin=timedelta(milliseconds=200),
    absence_wait=timedelta(milliseconds=400),
    absence_gap=timedelta(milliseconds=100),
    first_lookup=timedelta(milliseconds=100),
    busy_delay=timedelta(milliseconds=50),
    first_poll_delay=timedelta(milliseconds=500),
    least_gap=timedelta(milliseconds=200),
    greatest_gap=timedelta(seconds=1),
    early_poll_delay=timedelta(milliseconds=50),
    early_poll_gap=timedelta(milliseconds=200),
    budget=60_000,
    client_budget=60_000,
    fresh=timedelta(),
)
# No scheduled poll runs during a test. Every status comes from a callback or an explicit poll.
SILENT = replace(SHORT, first_poll_delay=timedelta(hours=1), first_lookup=timedelta(hours=1))


class Clock:
    """The real time, moved on by as much as a test has moved it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead.total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class HomingServer:
    url: str
    tracker: Tracker
    reconciler: Reconciler
    client: httpx.AsyncClient
    clock: Clock

    async def create(self, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        return await self.client.post(CREATE, json=CAT | changes, headers=headers)

    async def created(self, **changes: Any) -> str:
        """Submit, expect success, and return the task ID."""
        reply = await self.create(**changes)
        assert (reply.status_code, reply.json()["code"]) == (200, 0), reply.text
        return str(reply.json()["data"]["task_id"])

    async def task(self, ref: str) -> Task:
        return await self.tracker.get(ANYBODY, ref)

    async def seen(self, ref: str, condition: Callable[[Task], bool], *, within: float = 60.0) -> Task:
        """Wait until a task meets a condition, and return it."""

        async def meets_condition() -> bool:
            return condition(await self.task(ref))

        await until(meets_condition, within=within)
        return await self.task(ref)

    async def settled(self, ref: str) -> Task:
        return await self.tracker.wait(ANYBODY, ref, timeout=timedelta(seconds=20))

    async def reconcile(
        self, condition: Callable[[], Awaitable[bool]], *, step: timedelta = timedelta(), within: float = 60.0
    ) -> None:
        """Do the reconciler's rounds until the condition holds; the clock moves on by ``step`` before each."""
        async with asyncio.timeout(within):
            while not await condition():
                self.clock.ahead += step
                await self.reconciler.run_once()
                await asyncio.sleep(0.02)

    async def lookups_proven(self, prompt: str = "the first") -> str:
        """Submit a task, let a lookup by external ID show that lookups work here, and return the task ID."""
        ours = await self.created(prompt=prompt)
        account = self.tracker.providers["kling"]

        async def decided() -> bool:
            proven = await self.tracker.poller.lookups.proven(account, KIND)
            return proven or (await self.task(ours)).status in SETTLED

        await self.reconcile(decided)
        if not await self.tracker.poller.lookups.proven(account, KIND):
            # Its callback was faster than its first poll.
            await self.know_lookups()
        return ours

    async def know_lookups(self) -> None:
        """Make known that lookups work here, as they are after the first task of an address."""
        seen = lookup_seen(self.tracker.providers["kling"], KIND, self.clock(), found=True)
        await self.tracker.store.apply([RecordChange(Change(result=None, seen=(seen,)))])

    async def alarms(self) -> dict[str, int]:
        stats = await self.tracker.stats(ANYBODY)
        counts: dict[str, int] = {}
        for alarm in stats.alarms:
            counts[alarm.kind.value] = counts.get(alarm.kind.value, 0) + alarm.count
        return counts


def settings_of(folder: Path, provider_url: str, **changes: Any) -> Settings:
    usual = {
        "database_url": sqlite_url(folder),
        "kling_base_url": provider_url,
        "kling_api_key": "sandbox-api-key",
        "api_keys": (LOCAL_KEY,),
    }
    return Settings(**(usual | changes))


@asynccontextmanager
async def composed(
    settings: Settings,
    *,
    policy: Policy,
    store: Store | None = None,
    clock: Clock | None = None,
    loops: bool = True,
    **receiver: Any,
) -> AsyncIterator[tuple[Tracker, Reconciler, ASGIApp]]:
    """Open the server; ``loops`` also runs the reconciler and the relay.

    ``receiver`` overrides receiver settings.
    """
    clock = clock or Clock()
    tracker = create_tracker(settings, policy=policy, store=store, clock=clock, monotonic=clock.monotonic)
    async with tracker:
        api = Starlette(routes=api_routes(tracker, access_of(settings)))
        app = create_receiver(tracker, replace(ReceiverSettings.from_settings(settings), **receiver), api)
        if not tracker.store.shared:
            # A process that serves a file releases old leases: no other process polls its tasks.
            await tracker.store.due_tasks.release(owner=tracker.owner, margin=tracker.policy.lease_margin)
        reconciler = reconciler_of(tracker)
        stop = asyncio.Event()
        running_beside = [asyncio.create_task(reconciler.run(stop))] if loops else []
        if loops and settings.sinks:
            relay = relay_of(tracker, sinks_of(settings, tracker))
            await relay.open()
            running_beside.append(asyncio.create_task(relay.run(stop)))
        try:
            yield tracker, reconciler, app
        finally:
            stop.set()
            await asyncio.gather(*running_beside)


@asynccontextmanager
async def homing_server(
    folder: Path,
    provider_url: str,
    *,
    policy: Policy = SHORT,
    store: Store | None = None,
    clock: Clock | None = None,
    loops: bool = True,
    callbacks: bool = True,
    **settings: Any,
) -> AsyncIterator[HomingServer]:
    """Serve on loopback over real HTTP. Without ``callbacks`` there is no public address."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(closing(listen("127.0.0.1", 0)))
        url = address(listener)
        chosen = settings_of(folder, provider_url, **({"public_url": url} if callbacks else {}), **settings)
        clock = clock or Clock()
        tracker, reconciler, app = await stack.enter_async_context(
            composed(chosen, policy=policy, store=store, clock=clock, loops=loops)
        )
        await stack.enter_async_context(running(app, listener))
        headers = {"authorization": f"Bearer {chosen.api_keys[0].key}"}
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, verify=NO_TLS, timeout=30)
        )
        yield HomingServer(url=url, tracker=tracker, reconciler=reconciler, client=client, clock=clock)
