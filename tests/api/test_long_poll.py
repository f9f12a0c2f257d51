"""Long polls over real HTTP: answered on a change, cheap while they wait, and ended on disconnect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.api_keys import LOCAL_HEADERS
from tests.support.api_server import OTHER, STUDIO
from tests.support.changing_server import ALL, LONG, Watched, a_number, counted, watched
from tests.support.conditions import until
from tests.support.provider_proxy import NO_TLS
from tracker.model.task import Task

WAITERS = 1000


@pytest.fixture
async def homing(url: str) -> AsyncIterator[Watched]:
    async with watched(url) as running:
        yield running


async def a_kept_task(homing: Watched, number: int = 1, **changes: Any) -> Task:
    task = a_number(number, client="local", **changes)
    await homing.change(task, 1)
    return task


async def get_task(homing: Watched, task: Task, **query: Any) -> httpx.Response:
    return await homing.client.get(f"/v1/tasks/{task.id}", params=query)


async def waits(homing: Watched, count: int = 1) -> None:
    """Wait until exactly `count` clients wait."""

    async def so_many() -> bool:
        return homing.tracker.feed.waiting == count

    await until(so_many, within=LONG.total_seconds())


async def test_long_poll_returns_when_version_differs(homing: Watched) -> None:
    task = await a_kept_task(homing)
    waiting = asyncio.create_task(get_task(homing, task, wait=55, version=1))
    await waits(homing)
    await homing.change(task, 2)
    answer = await waiting
    assert (answer.json()["version"], answer.headers["etag"]) == (2, 'W/"2"')
    assert (await get_task(homing, task, wait=55, version=1)).json()["version"] == 2
    assert (await get_task(homing, task, wait=55, version=7)).json()["version"] == 2


async def test_long_poll_without_version_returns_on_change(homing: Watched) -> None:
    task = await a_kept_task(homing)
    waiting = asyncio.create_task(get_task(homing, task, wait=55))
    await waits(homing)
    await homing.change(task, 2, name="succeeded")
    assert (await waiting).json()["status"] == "succeeded"
    assert (await get_task(homing, task, wait=55)).json()["version"] == 2


async def test_long_poll_timeout_returns_current_task(homing: Watched) -> None:
    task = await a_kept_task(homing)
    answer = await get_task(homing, task, wait=0.05, version=1)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)


async def test_long_poll_accepts_any_task_id(homing: Watched) -> None:
    task = await a_kept_task(homing, external_id="mine/1")
    waiting = asyncio.create_task(homing.client.get("/v1/tasks/mine%2F1?wait=55&version=1"))
    await waits(homing)
    await homing.change(task, 2)
    assert (await waiting).json()["version"] == 2


async def test_long_poll_etag_counts_as_known_version(homing: Watched) -> None:
    task = await a_kept_task(homing)
    path = f"/v1/tasks/{task.id}"
    same = await homing.client.get(path, headers={"if-none-match": 'W/"1"'}, params={"wait": "0.05"})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", 'W/"1"')
    assert (await homing.client.get(path, headers={"if-none-match": '"1"'})).status_code == 304
    for other in ('"2"', '"another server\'s"', "*", ""):
        assert (await homing.client.get(path, headers={"if-none-match": other})).status_code == 200
    waiting = asyncio.create_task(homing.client.get(path, headers={"if-none-match": 'W/"1"'}, params={"wait": "55"}))
    await waits(homing)
    await homing.change(task, 2)
    assert (await waiting).json()["version"] == 2


@pytest.mark.parametrize("query", ["wait=56", "wait=-1", "wait=nan", "wait=x", "version=-1", f"version={2**63}"])
async def test_long_poll_invalid_request_is_refused(homing: Watched, query: str) -> None:
    task = await a_kept_task(homing)
    assert (await homing.client.get(f"/v1/tasks/{task.id}?{query}")).status_code == 400


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)], indirect=True)
async def test_thousand_long_polls_cost_no_queries(homing: Watched) -> None:
    tasks = [await a_kept_task(homing, number) for number in (1, 2)]
    async with clients(homing, WAITERS // 20) as several:
        path = f"/v1/tasks/{tasks[0].id}?wait=55&version=1"
        crowd = [asyncio.create_task(client.get(path)) for client in several for _ in range(20)]
        await waits(homing, WAITERS)
        while await looking():
            pass
        with counted() as statements:
            await homing.change(tasks[1], 2)
            assert (await get_task(homing, tasks[1], wait=55, version=1)).json()["version"] == 2
            await looking()
        assert len(statements) < WAITERS // 10
        assert not any(waiting.done() for waiting in crowd)
        await homing.change(tasks[0], 2)
        assert {answer.json()["version"] for answer in await asyncio.gather(*crowd)} == {2}
        await waits(homing, 0)


@asynccontextmanager
async def clients(homing: Watched, count: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Make several clients. One client is slow: it scans all its connections for each request."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=homing.url,
                    headers=LOCAL_HEADERS,
                    trust_env=False,
                    verify=NO_TLS,
                    timeout=LONG.total_seconds(),
                )
            )
            for _ in range(count)
        ]


async def looking() -> int:
    """Wait for two of the feed's periodic queries. Return the number of other statements meanwhile."""
    with counted() as statements:

        async def twice() -> bool:
            return len([each for each in statements if "FROM events" in each]) >= 2

        await until(twice)
        return len([each for each in statements if "FROM events" not in each])


async def test_long_poll_disconnect_frees_its_place(homing: Watched) -> None:
    task = await a_kept_task(homing)
    waiting = asyncio.create_task(get_task(homing, task, wait=55, version=1))
    await waits(homing)
    waiting.cancel()
    await waits(homing, 0)


async def test_server_stop_answers_all_long_polls(url: str) -> None:
    async with watched(url) as homing:
        task = await a_kept_task(homing)
        waiting = asyncio.create_task(get_task(homing, task, wait=55, version=1))
        await waits(homing)
        homing.tracker.feed.dismiss()
        answer = await asyncio.wait_for(waiting, 20)
        assert (answer.status_code, answer.json()["version"]) == (200, 1)
        assert (await asyncio.wait_for(get_task(homing, task, wait=55, version=1), 20)).status_code == 200


async def test_long_poll_covers_only_own_tasks(url: str) -> None:
    async with watched(url, keys=ALL, key=STUDIO) as homing:
        await homing.change(a_number(1, client=OTHER.name), 1)
        answer = await get_task(homing, a_number(1), wait=55, version=1)
        assert answer.status_code == 404
