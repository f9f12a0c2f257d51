"""One client uses all its capacity, over real HTTP. Other clients and callbacks still get answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx

from homing.sandbox import RunningSandbox
from homing.serve import Homing
from homing.server.connections import Bounds
from homing.server.web_server import address, listen, running
from tests.support.api_server import OTHER, QUICK, STUDIO
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.homing_server import CREATE, SHORT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, provider_proxy
from tests.support.raw_sockets import WITHIN, Line, Place
from tracker.settings import Settings

CONNECTIONS = 32
LARGE = "a" * 2_000
PATIENT = replace(SHORT, answer_within=timedelta(minutes=5), attempt=timedelta(minutes=5), submission_capacity=5_000)
STREAM = b"GET /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\nauthorization: Bearer %b\r\n\r\n"


@dataclass
class SlowProvider:
    """A provider that holds each create request at a gate and counts them."""

    gate: asyncio.Event
    creates: int = 0

    async def __call__(self, request: Request) -> Answer | None:
        if request.creates:
            self.creates += 1
            await self.gate.wait()
        return await request.forward()


@asynccontextmanager
async def slow(folder: Path, sandbox: RunningSandbox) -> AsyncIterator[tuple[HomingServer, SlowProvider]]:
    provider = SlowProvider(asyncio.Event())
    async with (
        provider_proxy(sandbox.base_url, provider) as line,
        homing_server(folder, line.base_url, policy=PATIENT, callbacks=False, loops=False) as homing,
    ):
        yield homing, provider


async def test_slow_provider_request_bodies_are_bounded(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with slow(tmp_path, kling_sandbox) as (homing, provider):
        first = asyncio.create_task(homing.create(prompt=LARGE))
        await until(lambda: counted(provider, 1))
        refused = await homing.create(prompt=LARGE)
        small = asyncio.create_task(homing.create(prompt="a small one"))
        await until(lambda: counted(provider, 2))
        provider.gate.set()
        passed = [await first, await small, await homing.create(prompt=LARGE + "again")]

    assert (refused.status_code, refused.json()["code"]) == (503, 5001)
    assert "Nothing was sent" in refused.json()["message"]
    assert [reply.status_code for reply in passed] == [200] * 3
    assert provider.creates == 3


async def test_disconnect_does_not_free_kept_body(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with slow(tmp_path, kling_sandbox) as (homing, provider):
        first = asyncio.create_task(homing.create(prompt=LARGE))
        await until(lambda: counted(provider, 1))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        refused = await homing.create(prompt=LARGE + "another")
        provider.gate.set()

    assert refused.status_code == 503


async def counted(provider: SlowProvider, count: int) -> bool:
    return provider.creates == count


@asynccontextmanager
async def small_server(folder: Path, sandbox: RunningSandbox) -> AsyncIterator[tuple[Place, httpx.AsyncClient]]:
    """Serve with little capacity. The yielded client is not the one that uses it."""
    with closing(listen("127.0.0.1", 0)) as listener:
        settings = Settings(
            database_url=sqlite_url(folder),
            kling_base_url=sandbox.base_url,
            kling_api_key=sandbox.api_key,
            public_url=address(listener),
            api_keys=(STUDIO, OTHER),
        )
        async with (
            Homing(settings, policy=QUICK, connections=CONNECTIONS) as homing,
            running(homing.app, listener, bounds=Bounds(connections=CONNECTIONS), ending=homing.tracker.feed.dismiss),
            httpx.AsyncClient(
                base_url=address(listener), headers={"authorization": f"Bearer {OTHER.key}"}, trust_env=False
            ) as client,
        ):
            yield Place(port=listener.getsockname()[1]), client


async def answered(line: Line) -> bytes:
    await line.say(STREAM % STUDIO.key.encode())
    return await line.hear(b"\r\n\r\n")


async def test_streams_of_one_key_leave_room_for_others(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with small_server(tmp_path, kling_sandbox) as (place, client), AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(place.line()) for _ in range(CONNECTIONS - 2)]
        heads = await asyncio.wait_for(asyncio.gather(*map(answered, lines)), WITHIN)
        open_streams = sum(b" 200 " in head for head in heads)
        expected = await client.post("/v1/tasks/expect", json={"provider": "kling", "kind": "images/omni-image"})
        callback = await client.post(
            expected.json()["callback_url"],
            content=json.dumps({"task_id": "8000000001", "task_status": "processing"}),
        )
        created = await client.post(CREATE, json={"prompt": "a cat"})
        async with client.stream("GET", "/v1/events", headers={"accept": "text/event-stream"}) as stream:
            others = stream.status_code

    assert 0 < open_streams <= CONNECTIONS // 2
    assert sum(b" 503 " in head for head in heads) == len(heads) - open_streams
    assert [expected.status_code, callback.status_code, created.status_code, others] == [201, 200, 200, 200]
