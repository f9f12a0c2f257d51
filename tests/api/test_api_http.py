"""The task state API over real HTTP: Homing's own server, its real tracker on SQLite, and the sandbox."""

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator

from homing.sandbox import RunningSandbox
from tests.support.api_server import OMNI, OPERATOR, OTHER, STUDIO, Served, served
from tests.support.conditions import until

KIND = "images/omni-image"
EXPECT = {"provider": "kling", "kind": KIND}
CAT = {"prompt": "a cat", "model_name": "kling-v3-omni"}


@pytest.fixture
async def homing(tmp_path: Path, kling_sandbox: RunningSandbox) -> AsyncIterator[Served]:
    async with served(tmp_path, kling_sandbox) as running:
        yield running


async def at_the_provider(sandbox: RunningSandbox, **changes: Any) -> str:
    async with httpx.AsyncClient(base_url=sandbox.base_url, headers=sandbox.headers) as client:
        reply = await client.post(OMNI, json=CAT | changes)
    return str(reply.json()["data"]["task_id"])


async def shown(client: httpx.AsyncClient, ref: str) -> dict[str, Any]:
    reply = await client.get(f"/v1/tasks/{ref}")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_expected_task_finishes_by_callback(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    # The poll that confirms the attached ID must not be the first to see the end.
    sandbox = kling_sandbox_factory(held=True)
    async with served(tmp_path, sandbox) as homing:
        await expected_task_finishes(homing, sandbox)


async def expected_task_finishes(homing: Served, sandbox: RunningSandbox) -> None:
    client = homing.client
    expected = await client.post("/v1/tasks/expect", json=EXPECT | {"external_id": "mine/1", "tags": ["spring"]})
    assert expected.status_code == 201
    task, callback_url = expected.json()["task"], expected.json()["callback_url"]
    assert callback_url.startswith(f"{homing.url}/callbacks/kling/")
    theirs = await at_the_provider(sandbox, external_task_id="mine/1", callback_url=callback_url)
    patched = await client.patch(f"/v1/tasks/{task['id']}", json={"provider_task_id": theirs})
    assert patched.json()["provider_task_id"] == theirs
    sandbox.finish(theirs)

    async def is_finished() -> bool:
        return bool((await shown(client, task["id"]))["status"] == "succeeded")

    await until(is_finished)
    for ref in (task["id"], theirs, "mine%2F1"):
        body = await shown(client, ref)
        assert body["id"] == task["id"]
        assert body["status_source"] == {"source": "callback", "trust": "token"}
        assert [asset["url"] for asset in body["result"]["assets"]] == sandbox.task(theirs)["result_urls"]
        assert body["result"]["assets"][0]["expires_at"] is not None
    history = (await client.get(f"/v1/tasks/{task['id']}/history")).json()["entries"]
    assert {"callback"} <= {entry["source"] for entry in history}
    assert all(entry["why"] for entry in history)
    assert callback_url.rpartition("/")[2] not in (await client.get(f"/v1/tasks/{task['id']}/history")).text
    assert [found["id"] for found in (await client.get("/v1/tasks?tag=spring")).json()["tasks"]] == [task["id"]]


async def test_running_task_is_adopted_and_polled(homing: Served, kling_sandbox: RunningSandbox) -> None:
    client = homing.client
    theirs = await at_the_provider(kling_sandbox)
    adopted = await client.post("/v1/tasks/adopt", json=EXPECT | {"provider_task_id": theirs})
    assert (adopted.status_code, adopted.json()["origin"]) == (201, "adopt")

    async def is_finished() -> bool:
        polled = await client.post(f"/v1/tasks/{theirs}/poll")
        assert polled.json()["outcome"]
        return bool(polled.json()["task"]["status"] == "succeeded")

    await until(is_finished)
    assert (await shown(client, theirs))["status_source"] == {"source": "poll", "trust": "provider"}
    missing = await client.post("/v1/tasks/adopt", json=EXPECT | {"provider_task_id": "nobody"})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:homing:problem:not-found")
    (entry,) = (await client.get("/v1/audit")).json()["entries"]
    assert (entry["action"], entry["object"]) == ("adopt", adopted.json()["id"])
    assert entry["detail"] == f"provider_task_id={theirs}"


async def test_operator_resolves_unpollable_task(homing: Served) -> None:
    client = homing.client
    ref = (await client.post("/v1/tasks/expect", json=EXPECT)).json()["task"]["id"]
    reply = await client.post(f"/v1/tasks/{ref}/resolve", json={"status": "rejected", "note": "never submitted"})
    assert reply.json()["status"] == "rejected"
    sources = [entry["source"] for entry in (await client.get(f"/v1/tasks/{ref}/history")).json()["entries"]]
    assert sources == ["operator"]


async def test_conflicting_requests_return_409(homing: Served, kling_sandbox: RunningSandbox) -> None:
    client = homing.client
    body = EXPECT | {"external_id": "mine-1"}
    ref = (await client.post("/v1/tasks/expect", json=body)).json()["task"]["id"]
    assert (await client.post("/v1/tasks/expect", json=body)).status_code == 409
    first, second = await at_the_provider(kling_sandbox), await at_the_provider(kling_sandbox)
    assert (await client.patch(f"/v1/tasks/{ref}", json={"provider_task_id": first})).status_code == 200
    assert (await client.patch(f"/v1/tasks/{ref}", json={"provider_task_id": second})).status_code == 409


async def test_pages_and_filters_are_consistent(homing: Served) -> None:
    client = homing.client
    made = [
        (await client.post("/v1/tasks/expect", json=EXPECT | {"tags": [f"t{number % 2}"]})).json()["task"]
        for number in range(7)
    ]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "3", "status": "pending"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/tasks", params=params)).json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [task["id"] for task in reversed(made)]
    assert len((await client.get("/v1/tasks?tag=t1")).json()["tasks"]) == 3
    since = {"created_after": made[3]["created_at"]}
    assert len((await client.get("/v1/tasks", params=since)).json()["tasks"]) in {3, 4}
    assert (await client.get("/v1/tasks?status=succeeded")).json()["tasks"] == []
    assert (await client.get("/v1/stats")).json()["by_status"] == {"pending": 7}


async def test_client_sees_only_its_own_tasks(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, api_keys=(STUDIO, OTHER, OPERATOR)) as homing:
        client = homing.client
        mine = (await client.post("/v1/tasks/expect", json=EXPECT | {"external_id": "mine-1"})).json()["task"]["id"]
        other = {"authorization": f"Bearer {OTHER.key}"}
        for ref in (mine, "mine-1"):
            for method, path in (("GET", ""), ("GET", "/history"), ("POST", "/poll")):
                reply = await client.request(method, f"/v1/tasks/{ref}{path}", headers=other)
                assert reply.status_code == 404
        assert (await client.get("/v1/tasks", headers=other)).json()["tasks"] == []
        assert (await client.get("/v1/stats", headers=other)).json()["open"] == 0
        operator = {"authorization": f"Bearer {OPERATOR.key}"}
        assert (await client.get("/v1/tasks?client=studio", headers=operator)).json()["tasks"][0]["id"] == mine
        # The same id of two clients is two tasks.
        theirs = await client.post("/v1/tasks/expect", json=EXPECT | {"external_id": "mine-2"}, headers=other)
        assert theirs.status_code == 201


async def test_shared_callback_url_works_until_revoked(homing: Served, kling_sandbox: RunningSandbox) -> None:
    client = homing.client
    made = (await client.post("/v1/callback-urls", json={"provider": "kling", "label": "studio"})).json()
    url, number = made["callback_url"], made["shared_callback_url"]["id"]
    theirs = await at_the_provider(kling_sandbox, callback_url=url)

    async def received() -> bool:
        return bool((await client.get("/v1/orphans")).json()["orphans"])

    await until(received)
    orphan = (await client.get("/v1/orphans")).json()["orphans"][0]
    assert orphan["provider_task_id"] == theirs
    assert url.rpartition("/")[2] not in (await client.get("/v1/callback-urls")).text
    assert (await client.delete(f"/v1/callback-urls/{number}")).json()["revoked_at"] is not None
    assert (await client.post(url, json={})).status_code == 404
    assert (await client.delete("/v1/callback-urls/999")).status_code == 404


async def test_health_is_green_and_openapi_matches_server(homing: Served) -> None:
    client = homing.client
    assert (await client.get("/healthz")).json() == {"alive": True}
    assert (await client.get("/readyz")).json()["ready"] is True
    ref = (await client.post("/v1/tasks/expect", json=EXPECT)).json()["task"]["id"]
    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            query = "?task_ids=nobody" if path.endswith("/tasks") and "v1" not in path else ""
            # Where there is a choice: no stream, which has no end.
            plain = {"accept": "application/json"}
            reply = await client.request(method.upper(), path.replace("{ref}", ref) + query, headers=plain)
            content = operation["responses"][str(reply.status_code)]["content"]
            schema = content[reply.headers["content-type"]]["schema"]
            OAS31Validator({**schema, "components": document["components"]}).validate(reply.json())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/tasks/%00", 404),
        ("/v1/tasks/%FF%FE", 404),
        ("/v1/tasks/a%2F..%2Fb", 404),
        ("/v1/tasks/" + "x" * 5000, 404),
        ("/v1/tasks?cursor=%27%3B--", 200),
        ("/v1/tasks?cursor=%00", 400),
        ("/nothing", 404),
        ("/v1/tasks/../../etc/passwd", 404),
    ],
)
async def test_odd_paths_return_clear_errors(
    homing: Served, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await homing.client.get(path)
    assert reply.status_code == status
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_foreign_host_or_wrong_key_is_refused(homing: Served) -> None:
    for headers, status in (({"host": "rebound.example.com"}, 421), ({"authorization": "Bearer wrong"}, 401)):
        assert (await homing.client.get("/v1/tasks", headers=headers)).status_code == status
