"""Two replicas with one PostgreSQL: a client waiting at one gets the events of callbacks to the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass

import httpx
import psycopg
import pytest
from httpx_sse import aconnect_sse
from starlette.applications import Starlette

from homing.server.web_server import address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.changing_server import events, taken
from tests.support.conditions import until
from tests.support.postgres import Postgres
from tests.support.receiver_server import KIND, ME, PUBLIC, body
from tracker.api import routes
from tracker.app import create_tracker
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.engine.notices import CHANNEL

WITHIN = 60.0


@dataclass(frozen=True)
class Replica:
    tracker: Tracker
    client: httpx.AsyncClient


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[Replica]:
    tracker = create_tracker(Settings(database_url=url, public_url=PUBLIC, kling_base_url="http://127.0.0.1:9"))
    app = create_receiver(tracker, ReceiverSettings(), otherwise=Starlette(routes=routes(tracker, LOCAL_ACCESS)))
    with closing(listen("127.0.0.1", 0)) as listener:
        async with (
            tracker,
            running(app, listener, ending=tracker.feed.dismiss),
            httpx.AsyncClient(
                base_url=address(listener), headers=LOCAL_HEADERS, trust_env=False, timeout=WITHIN
            ) as client,
        ):
            yield Replica(tracker, client)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(replica(url)), await stack.enter_async_context(replica(url))


async def called_back(at: Replica, name: str) -> str:
    """Expect a task and finish it with a callback, both at one replica. Return its ID."""
    made = await at.tracker.expect(ME, provider="kling", kind=KIND, external_id=name)
    assert made.callback_url is not None
    path = made.callback_url.removeprefix(PUBLIC)
    answer = await at.client.post(path, content=body(name, task_id=f"theirs-{name}"))
    assert answer.status_code == 200
    return made.task.id


def cut(url: str) -> int:
    """End every connection that listens for notifications, as a database administrator can."""
    with psycopg.connect(url, autocommit=True) as connection:
        listening = "datname = current_database() AND query = %s"
        query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}"
        return len(connection.execute(query, (f"LISTEN {CHANNEL}",)).fetchall())


@pytest.mark.parametrize("noticed", [True, False])
async def test_stream_sends_callback_from_other_replica(
    url: str,
    two: tuple[Replica, Replica],
    noticed: bool,  # noqa: FBT001 - a parameter
) -> None:
    here, there = two
    async with aconnect_sse(here.client, "GET", "/v1/events?type=succeeded") as stream:
        pieces = events(stream.aiter_sse())
        first = await called_back(there, "one")
        assert [json.loads(each.data)["subject"] for each in await taken(pieces, 1)] == [first]
        if not noticed:
            assert cut(url) > 0
        ids = [await called_back(there if number % 2 else here, f"more-{number}") for number in range(10)]
        found = await taken(pieces, 10)
    assert [json.loads(each.data)["subject"] for each in found] == ids
    assert [int(each.id) for each in found] == sorted(int(each.id) for each in found)


async def test_long_poll_ends_on_callback_at_other_replica(two: tuple[Replica, Replica]) -> None:
    here, there = two
    made = await there.tracker.expect(ME, provider="kling", kind=KIND, external_id="one")
    waiting = asyncio.create_task(here.client.get(f"/v1/tasks/{made.task.id}?wait=55"))

    async def waits() -> bool:
        return here.tracker.feed.waiting == 1

    await until(waits)
    assert made.callback_url is not None
    path = made.callback_url.removeprefix(PUBLIC)
    await there.client.post(path, content=body("one", task_id="theirs-1"))
    assert (await waiting).json()["status"] == "succeeded"


async def test_stream_resumes_on_another_replica(two: tuple[Replica, Replica]) -> None:
    here, there = two
    ids = [await called_back(here, f"before-{number}") for number in range(3)]
    async with aconnect_sse(here.client, "GET", "/v1/events?after=0&type=succeeded") as stream:
        last = (await taken(events(stream.aiter_sse()), 2))[-1].id
    ids += [await called_back(there, f"after-{number}") for number in range(3)]
    back = {"last-event-id": last}
    async with aconnect_sse(there.client, "GET", "/v1/events?type=succeeded", headers=back) as stream:
        found = await taken(events(stream.aiter_sse()), 4)
    assert [json.loads(each.data)["subject"] for each in found] == ids[2:]
