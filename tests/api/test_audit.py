"""Audit entries: each operator action over the API is recorded with its client, in the same transaction."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.support.api_harness import api_client
from tests.support.api_keys import LOCAL_KEY
from tests.support.api_server import OPERATOR, STUDIO
from tracker.api import Access, create_api
from tracker.app import create_tracker, sinks_of
from tracker.service.tracker import Tracker
from tracker.settings import Settings

SINKS = "https://shop.example/hook#name=shop stdout:#name=lines"
EXPECT = {"provider": "kling", "kind": "images/omni-image"}
STUDIOS = {"authorization": f"Bearer {STUDIO.key}"}


@pytest.fixture
async def tracker(url: str) -> AsyncIterator[Tracker]:
    chosen = {"database_url": url, "sinks": SINKS, "public_url": "https://homing.example.com", "api_keys": (LOCAL_KEY,)}
    settings = Settings.model_validate(chosen)
    async with create_tracker(settings) as tracker:
        await tracker.store.sinks.register([new for new, _ in sinks_of(settings, tracker)], now=tracker.clock())
        yield tracker


@pytest.fixture
async def client(tracker: Tracker) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {OPERATOR.key}"}
    async with api_client(create_api(tracker, Access(api_keys=(STUDIO, OPERATOR))), headers=headers) as client:
        yield client


async def expected(client: httpx.AsyncClient, **headers: str) -> str:
    return str((await client.post("/v1/tasks/expect", json=EXPECT, headers=headers)).json()["task"]["id"])


async def recorded(http: httpx.AsyncClient, **query: str) -> list[tuple[str, ...]]:
    """Return the entries, oldest first."""
    page = await http.get("/v1/audit", params=query)
    entries: list[dict[str, Any]] = page.json()["entries"]
    return [tuple(entry[name] for name in ("client", "action", "object", "detail")) for entry in reversed(entries)]


async def test_operator_action_is_recorded(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "homing.audit")
    task, mine = await expected(client, **STUDIOS), await expected(client, **STUDIOS)

    made = (await client.post("/v1/callback-urls", json={"provider": "kling", "label": "console"})).json()
    number = str(made["shared_callback_url"]["id"])
    secret = (await client.get("/v1/sinks/shop/secret")).json()["secrets"][0]
    replies = [
        await client.patch(f"/v1/tasks/{task}", json={"provider_task_id": "theirs-1"}),
        await client.post(f"/v1/tasks/{task}/resolve", json={"status": "expired", "note": "a private note"}),
        await client.post(f"/v1/tasks/{mine}/resolve", json={"status": "rejected"}, headers=STUDIOS),
        await client.post("/v1/sinks/shop/pause"),
        await client.post("/v1/sinks/shop/resume?from_now=true"),
        await client.post("/v1/replay", json={"sink": "shop", "task": task, "dry_run": False}),
        await client.post("/v1/deliveries/dead-letter", json={"task": task, "dry_run": False}),
        await client.delete(f"/v1/callback-urls/{number}"),
    ]

    assert [reply.status_code for reply in replies] == [200] * len(replies), [reply.text for reply in replies]
    done = [
        ("operator", "create-callback-url", number, "provider=kling"),
        ("operator", "read-secret", "shop", ""),
        ("operator", "attach", task, "provider_task_id=theirs-1"),
        ("operator", "resolve", task, "status=expired"),
        ("studio", "resolve", mine, "status=rejected"),
        ("operator", "pause-sink", "shop", ""),
        ("operator", "resume-sink", "shop", "from_now=yes"),
        ("operator", "replay", "shop", f"task={task}"),
        ("operator", "dead-letter", "every sink", f"task={task}"),
        ("operator", "revoke-callback-url", number, ""),
    ]
    assert await recorded(client) == done
    lines = [record.getMessage() for record in caplog.records if record.name == "homing.audit"]
    assert lines == [f"audit: client={who} action={what} object={where} detail={how}" for who, what, where, how in done]
    for hidden in (secret, made["callback_url"].rpartition("/")[2], "a private note"):
        assert hidden not in str(done) + caplog.text


async def test_failed_action_is_not_recorded(client: httpx.AsyncClient) -> None:
    task = await expected(client, **STUDIOS)

    replies = [
        await client.post("/v1/sinks/nobody/pause"),
        await client.delete("/v1/sinks/shop"),
        await client.get("/v1/sinks/lines/secret"),
        await client.delete("/v1/callback-urls/999"),
        await client.post(f"/v1/tasks/{task}/resolve", json={"status": "succeeded"}),
        await client.post("/v1/sinks/shop/pause", headers=STUDIOS),
        await client.post("/v1/replay", json={"sink": "shop", "task": task}),
        await client.patch(f"/v1/tasks/{task}", json={"provider_task_id": "theirs-1"}, headers=STUDIOS),
    ]

    assert [reply.status_code for reply in replies] == [404, 409, 404, 404, 409, 403, 200, 200]
    assert await recorded(client) == []


async def test_unrecordable_action_is_not_done(client: httpx.AsyncClient, tracker: Tracker, url: str) -> None:
    task = await expected(client, **STUDIOS)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
    engine.dispose()

    replies = [
        await client.post("/v1/sinks/shop/pause"),
        await client.get("/v1/sinks/shop/secret"),
        await client.post("/v1/callback-urls", json={"provider": "kling"}),
        await client.post(f"/v1/tasks/{task}/resolve", json={"status": "expired"}),
    ]

    assert all(reply.is_server_error for reply in replies)
    assert [state.on for state in await tracker.sink_admin.sinks() if state.name == "shop"] == [True]
    assert await tracker.shared_callback_urls() == []
    assert (await client.get(f"/v1/tasks/{task}")).json()["status"] == "pending"


async def test_audit_list_filters_and_pages(client: httpx.AsyncClient, tracker: Tracker) -> None:
    await tracker.sink_admin.pause("shop", by="ops")
    await tracker.sink_admin.resume("shop", by="ops")
    await tracker.sink_admin.pause("lines")

    first = (await client.get("/v1/audit?limit=2")).json()
    second = (await client.get("/v1/audit", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [entry["object"] for page in (first, second) for entry in page["entries"]] == ["lines", "shop", "shop"]
    assert second["next_cursor"] is None
    assert await recorded(client, client="ops", action="pause-sink") == [("ops", "pause-sink", "shop", "")]
    assert await recorded(client, client="in-process") == [("in-process", "pause-sink", "lines", "")]
    assert (await client.get("/v1/audit", headers=STUDIOS)).status_code == 403
    assert (await client.get("/v1/audit?action=unknown")).status_code == 400
