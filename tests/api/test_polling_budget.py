"""Polls that clients cause, over real HTTP: bounded, shared fairly, and sent once for concurrent requests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from homing.sandbox import RunningSandbox
from tests.support.homing_server import ANYBODY, KIND, SILENT, Clock, HomingServer, homing_server
from tests.support.provider_proxy import Answer, ProviderProxy, Request, provider_proxy

OMNI = "/kling/v1/images/omni-image"
# Enough for one batch of twenty ids.
BOUNDED = replace(SILENT, budget=120, client_budget=30, fresh=timedelta(minutes=5))
MOST = 30
WITHIN = 60


class StandingClock(Clock):
    """A clock that stands still, so that the budget does not refill on a slow machine."""

    def __init__(self) -> None:
        super().__init__()
        self._at, self._seconds = super().__call__(), super().monotonic()

    def __call__(self) -> datetime:
        return self._at + self.ahead

    def monotonic(self) -> float:
        return self._seconds + self.ahead.total_seconds()


@asynccontextmanager
async def bounded(
    folder: Path, sandbox: RunningSandbox, *, clock: Clock | None = None, callbacks: bool = False
) -> AsyncIterator[tuple[HomingServer, ProviderProxy]]:
    async with (
        provider_proxy(sandbox.base_url) as line,
        homing_server(
            folder, line.base_url, policy=BOUNDED, clock=clock or StandingClock(), loops=False, callbacks=callbacks
        ) as homing,
    ):
        yield homing, line


def polls(line: ProviderProxy) -> int:
    return line.count(lambda request: request.asks_one)


async def test_concurrent_polls_send_one_request(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    polled, gate = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> Answer | None:
        if request.asks_one:
            polled.set()
            await gate.wait()
        return await request.forward()

    async with bounded(tmp_path, kling_sandbox) as (homing, line):
        ours = await homing.created()
        line.script = script
        asking = [asyncio.create_task(homing.client.post(f"/v1/tasks/{ours}/poll")) for _ in range(20)]
        await asyncio.wait_for(polled.wait(), WITHIN)
        gate.set()
        replies = await asyncio.gather(*asking)

    assert [reply.status_code for reply in replies] == [200] * 20
    assert len({reply.json()["outcome"] for reply in replies}) == 1
    assert polls(line) == 1


async def test_repeated_poll_returns_recent_answer(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    # The provider holds the task, so no callback arrives in between.
    async with bounded(tmp_path, kling_sandbox_factory(held=True), clock=Clock(), callbacks=True) as (homing, line):
        ours = await homing.created()
        first, second = [await homing.client.post(f"/v1/tasks/{ours}/poll") for _ in range(2)]
        requests = polls(line)
        task = await homing.task(ours)
        hint = {"task_id": task.provider_task_id, "task_status": "processing"}
        await homing.client.post(await url_of(homing, ours), content=json.dumps(hint))
        await homing.client.post(f"/v1/tasks/{ours}/poll")

    assert first.json() == second.json()
    assert requests == 1
    assert polls(line) == 2, "a callback in between may carry newer data"


async def test_poll_by_two_ids_counts_as_two(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The client expects the task under one ID and attaches a second ID that the provider does not know."""
    policy = replace(BOUNDED, fresh=timedelta())
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(
            tmp_path, line.base_url, policy=policy, clock=StandingClock(), loops=False, callbacks=False
        ) as homing,
    ):
        ours = (await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")).task.id
        await homing.client.post(f"/v1/tasks/{ours}/resolve", json={"provider_task_id": "nobody-1"})
        replies = [await homing.client.post(f"/v1/tasks/{ours}/poll") for _ in range(MOST)]

    assert replies[-1].status_code == 429
    assert polls(line) in {MOST, MOST + 1}


async def url_of(homing: HomingServer, ours: str) -> str:
    """Return the callback URL of a task, as sent to the provider."""
    return str(homing.tracker.adoption._callback_urls.of_task(await homing.task(ours)))  # noqa: SLF001 - no public method returns it


async def test_unknown_id_batches_are_bounded(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with bounded(tmp_path, kling_sandbox) as (homing, line):
        batches = [",".join(f"nobody-{batch}-{number}" for number in range(20)) for batch in range(20)]
        replies = [await homing.client.get("/kling/tasks", params={"task_ids": ids}) for ids in batches]
        requests = line.count(lambda request: request.method == "GET")
        again = await homing.client.get("/kling/tasks", params={"task_ids": batches[0]})

    assert [reply.status_code for reply in replies] == [200] + [429] * 19
    assert requests <= MOST
    assert int(replies[1].headers["retry-after"]) > 1
    assert (again.status_code, again.json()["data"]) == (200, []), (
        "Homing does not poll an ID that it just found absent"
    )


async def test_every_poll_path_uses_the_budget(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    def adopt(number: int) -> httpx.Request:
        body = {"provider": "kling", "kind": KIND, "provider_task_id": f"nobody-{number}"}
        return homing.client.build_request("POST", "/v1/tasks/adopt", json=body)

    def get(number: int) -> httpx.Request:
        return homing.client.build_request("GET", f"{OMNI}/nobody-{number}")

    def resolve(number: int) -> httpx.Request:
        body = {"provider_task_id": f"nobody-{number}"}
        return homing.client.build_request("POST", f"/v1/tasks/{ours}/resolve", json=body)

    async with bounded(tmp_path, kling_sandbox) as (homing, line):
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND)
        ours = expected.task.id
        for number in range(2 * MOST):
            await homing.client.send(get(number))
        spent = polls(line)
        refused = [await homing.client.send(request) for request in (adopt(1000), get(1001), resolve(1002))]
        row = await homing.task(ours)

    assert spent == MOST == polls(line)
    assert [reply.status_code for reply in refused] == [429] * 3
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert row.provider_task_id is None, "a refused request changed nothing"
