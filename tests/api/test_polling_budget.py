"""What clients have the provider asked, over real HTTP: bounded, shared fairly, and asked once where once is enough."""

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
WITHIN = 20


class StandingClock(Clock):
    """A clock that stands still: what was taken from a budget does not come back while a slow machine works."""

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


async def test_polls_at_once_ask_the_provider_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> Answer | None:
        if request.asks_one:
            asked.set()
            await gate.wait()
        return await request.forward()

    async with bounded(tmp_path, kling_sandbox) as (homing, line):
        ours = await homing.created()
        line.script = script
        asking = [asyncio.create_task(homing.client.post(f"/v1/tasks/{ours}/poll")) for _ in range(20)]
        await asyncio.wait_for(asked.wait(), WITHIN)
        gate.set()
        replies = await asyncio.gather(*asking)

    assert [reply.status_code for reply in replies] == [200] * 20
    assert len({reply.json()["outcome"] for reply in replies}) == 1
    assert polls(line) == 1


async def test_a_poll_shortly_after_another_gets_its_answer(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    # The provider holds the task: no callback of its own comes in between.
    async with bounded(tmp_path, kling_sandbox_factory(held=True), clock=Clock(), callbacks=True) as (homing, line):
        ours = await homing.created()
        first, second = [await homing.client.post(f"/v1/tasks/{ours}/poll") for _ in range(2)]
        asked = polls(line)
        task = await homing.task(ours)
        hint = {"task_id": task.provider_task_id, "task_status": "processing"}
        await homing.client.post(await url_of(homing, ours), content=json.dumps(hint))
        await homing.client.post(f"/v1/tasks/{ours}/poll")

    assert first.json() == second.json()
    assert asked == 1
    assert polls(line) == 2, "a callback in between may know more"


async def test_a_poll_by_two_ids_counts_as_two(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """A task that its client announced by one id, and attached another one to that the provider does not know."""
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
    """Return the callback URL of a task, as the provider was told it."""
    return str(homing.tracker.adoption._addresses.of_task(await homing.task(ours)))  # noqa: SLF001 - nobody else tells it


async def test_batches_of_unknown_ids_are_bounded(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with bounded(tmp_path, kling_sandbox) as (homing, line):
        batches = [",".join(f"nobody-{batch}-{number}" for number in range(20)) for batch in range(20)]
        replies = [await homing.client.get("/kling/tasks", params={"task_ids": ids}) for ids in batches]
        asked = line.count(lambda request: request.method == "GET")
        again = await homing.client.get("/kling/tasks", params={"task_ids": batches[0]})

    assert [reply.status_code for reply in replies] == [200] + [429] * 19
    assert asked <= MOST
    assert int(replies[1].headers["retry-after"]) > 1
    assert (again.status_code, again.json()["data"]) == (200, []), "what was just found absent is not asked about"


async def test_each_way_to_ask_passes_the_budget(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
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
    assert row.provider_task_id is None, "what was refused did nothing"
