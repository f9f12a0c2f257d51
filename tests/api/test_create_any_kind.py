"""`POST /v1/tasks` over real HTTP: every kind, from its submission to its result, with the sandbox as the provider."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from homing.sandbox import RunningSandbox
from tests.support.api_server import OTHER, STUDIO, served
from tests.support.conditions import until
from tests.support.kling_examples import MODELS, REQUESTS, path_of

SandboxFactory = Callable[..., RunningSandbox]
CAT = {"provider": "kling", "kind": "images/omni-image", "input": {"prompt": "a cat"}}


def request_of(kind: str) -> dict[str, Any]:
    """Return the create request of a kind, with its model beside the input where the kind has it in the path."""
    model = {"model": MODELS[kind]} if kind in MODELS else {}
    return {"provider": "kling", "kind": kind, "input": dict(REQUESTS[kind])} | model


async def gateway_id(client: httpx.AsyncClient, kind: str, key: str) -> str:
    reply = await client.post(path_of(kind), json=dict(REQUESTS[kind]), headers={"idempotency-key": key})
    assert (reply.status_code, reply.json()["code"]) == (200, 0), reply.text
    data = reply.json()["data"]
    return str(data.get("task_id") or data["id"])


async def test_every_kind_is_created_and_finished(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox) as homing:
        client = homing.client
        made: dict[str, str] = {}
        for kind in REQUESTS:
            reply = await client.post("/v1/tasks", json=request_of(kind) | {"metadata": {"kind": kind}})
            assert (reply.status_code, reply.json()["kind"]) == (201, kind), reply.text
            assert reply.json()["model"] == MODELS.get(kind, REQUESTS[kind].get("model_name"))
            made[kind] = reply.json()["id"]
        truths = {task["kind"]: task for task in kling_sandbox.ledger["tasks"]}
        assert truths.keys() == REQUESTS.keys()

        for kind, task_id in made.items():

            async def succeeded(task_id: str = task_id) -> bool:
                return bool((await client.get(f"/v1/tasks/{task_id}")).json()["status"] == "succeeded")

            await until(succeeded, pause=0.1)
            shown = (await client.get("/v1/tasks", params={"metadata[kind]": kind})).json()["tasks"]
            assert [task["id"] for task in shown] == [task_id]
            urls = {asset["url"] for asset in shown[0]["result"]["assets"]}
            # A voice and an element are results with an ID. The pictures of an element are its request's.
            assert kind.startswith("general/") or urls >= set(truths[kind]["result_urls"]), kind
        events = (await client.get("/v1/events?after=0&limit=200&type=succeeded")).json()["events"]
        assert {event["data"]["metadata"]["kind"] for event in events} == REQUESTS.keys()


async def test_repeat_at_gateway_is_the_same_task(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with served(tmp_path, sandbox) as homing:
        client = homing.client
        for kind in REQUESTS:
            headers = {"idempotency-key": f"create first {kind}"}
            first = await client.post("/v1/tasks", json=request_of(kind), headers=headers)
            assert await gateway_id(client, kind, headers["idempotency-key"]) == first.json()["id"], kind
            before = await gateway_id(client, kind, f"gateway first {kind}")
            again = await client.post(
                "/v1/tasks", json=request_of(kind), headers={"idempotency-key": f"gateway first {kind}"}
            )
            assert (again.status_code, again.json()["id"]) == (200, before), kind
    assert len(sandbox.ledger["tasks"]) == 2 * len(REQUESTS)


async def test_simultaneous_repeats_make_one_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox) as homing:
        body = CAT | {"external_id": "order-7"}
        replies = await asyncio.gather(*(homing.client.post("/v1/tasks", json=body) for _ in range(8)))
    assert sorted(reply.status_code for reply in replies) == [200] * 7 + [201]
    assert len({reply.json()["id"] for reply in replies}) == len(kling_sandbox.ledger["tasks"]) == 1


async def test_metadata_filter_shows_only_own_tasks(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, api_keys=(STUDIO, OTHER)) as homing:
        other = {"authorization": f"Bearer {OTHER.key}"}
        body = CAT | {"input": {"prompt": "a cat", "model_name": "kling-v3-omni"}, "metadata": {"order": "7"}}
        ours = (await homing.client.post("/v1/tasks", json=body)).json()["id"]
        theirs = (await homing.client.post("/v1/tasks", json=body, headers=other)).json()["id"]
        for query in ("metadata[order]=7", "model=kling-v3-omni", "metadata[order]=7&model=kling-v3-omni"):
            for headers, expected in ((None, ours), (other, theirs)):
                reply = await homing.client.get(f"/v1/tasks?{query}", headers=headers)
                assert [task["id"] for task in reply.json()["tasks"]] == [expected], query
