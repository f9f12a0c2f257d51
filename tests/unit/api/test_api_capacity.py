"""Limits per client: bodies in transfer, concurrent requests, streams and long polls."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.support.api_harness import ApiHarness, api_harness, closed_client
from tests.support.conditions import until
from tests.support.published_events import a_success
from tracker.api import Access, Limits
from tracker.model.keys import NamedKey
from tracker.rules.schedule import Policy

WAIT = "/v1/events?wait=55"
OMNI = "/v1/images/omni-image"
KEYS = Access(
    api_keys=(NamedKey(name="studio", key="made-up-studio-key"), NamedKey(name="other", key="made-up-other-key"))
)
STUDIO = {"authorization": "Bearer made-up-studio-key"}
STREAMING = STUDIO | {"accept": "text/event-stream"}
OTHER = {"authorization": "Bearer made-up-other-key"}
# Bodies and their limits are smaller by this factor to keep the test fast.
SCALE = 16
FIVE_MIB = b'{"prompt":"a cat","image_list":[{"image":"' + b"A" * ((5 << 20) // SCALE) + b'"}]}'


async def pieces(*sent: bytes, gate: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for piece in sent:
        yield piece
        if gate is not None:
            await gate.wait()


def held(client: httpx.AsyncClient, path: str, count: int, **headers: str) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(client.get(path, headers=headers)) for _ in range(count)]


async def test_announced_bodies_without_bytes_block_no_one(api: ApiHarness) -> None:
    gate = asyncio.Event()
    announced = {"content-type": "application/json", "content-length": str(Limits().gateway_body)}
    async with api.client() as client:
        silent = [
            asyncio.create_task(client.post(OMNI, content=pieces(b"{", gate=gate), headers=announced)) for _ in range(8)
        ]
        await asyncio.sleep(0)
        replies = [await client.post(OMNI, json={"prompt": "a cat"}) for _ in range(3)]
        gate.set()
        await asyncio.gather(*silent)

    assert [reply.status_code for reply in replies] == [200] * 3


async def test_twenty_chunked_submits_to_slow_provider_pass(tmp_path: Path) -> None:
    policy = Policy(submission_capacity=Policy().submission_capacity // SCALE)
    limits = Limits(body_capacity=Limits().body_capacity // SCALE)
    body = FIVE_MIB
    async with api_harness(tmp_path, policy=policy) as api, api.client(limits=limits) as client:
        gate = api.provider.gate = asyncio.Event()
        sending = [
            asyncio.create_task(
                client.post(OMNI, content=pieces(body[:99], body[99:]), headers={"content-type": "application/json"})
            )
            for _ in range(20)
        ]
        await until(lambda: len(api.provider.calls) == len(sending) or any(each.done() for each in sending))
        gate.set()
        replies = await asyncio.gather(*sending)

    assert [reply.status_code for reply in replies] == [200] * 20


async def test_long_polls_per_key_are_capped_with_clear_error(api: ApiHarness) -> None:
    task, feed = a_success(client="studio"), api.tracker.feed
    await api.add(task)
    path = f"/v1/tasks/{task.id}?wait=55&version={task.version}"
    async with api.client(KEYS, limits=Limits(waits_per_client=3)) as client:
        waiting = held(client, WAIT, 3, **STUDIO)
        await until(lambda: feed.waiting == 3)
        refused = [await client.get(each, headers=STREAMING) for each in (path, "/v1/events", "/v1/events?wait=1")]
        plain = [await client.get(each, headers=STUDIO) for each in ("/v1/tasks", "/v1/events?limit=1")]
        feed.dismiss()
        await asyncio.gather(*waiting)
        again = await client.get("/v1/events?wait=1", headers=STUDIO)

    assert all(each.result().is_success for each in waiting)
    assert [(reply.status_code, reply.headers["retry-after"]) for reply in refused] == [(429, "5")] * 3
    assert "HOMING_STREAMS_PER_CLIENT" in refused[0].json()["detail"]
    assert [reply.status_code for reply in [*plain, again]] == [200] * 3


async def test_client_never_takes_all_places(api: ApiHarness) -> None:
    feed = api.tracker.feed
    async with api.client(KEYS, limits=Limits(connections=40)) as client:
        waiting = held(client, WAIT, 60, **STUDIO)
        await until(lambda: sum(each.done() for each in waiting) + feed.waiting == 60)
        refused = [each.result().status_code for each in waiting if each.done()]
        own = await client.get("/v1/tasks", headers=STUDIO)
        others = await client.get("/v1/events?wait=0", headers=OTHER)
        feed.dismiss()
        await asyncio.gather(*waiting)

    assert refused == [503] * 40
    assert (own.status_code, others.status_code) == (200, 200)


async def test_unauthenticated_client_takes_no_place() -> None:
    gate = asyncio.Event()
    async with closed_client(KEYS, limits=Limits(connections=4, body_capacity=10), anonymous=True) as client:
        for _ in range(20):
            reply = await client.post(OMNI, content=pieces(b"{" * 100, gate=gate))
            assert reply.status_code in {401, 429}
