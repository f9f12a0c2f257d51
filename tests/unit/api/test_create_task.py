"""`POST /v1/tasks` over a real tracker: one way to submit, beside the gateways in the providers' own shapes."""

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api_harness import OPERATOR, ApiHarness, api_harness, closed_client, kling_error
from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.builders import NOW, OMNI
from tests.support.conditions import until
from tests.unit.api.test_api_tasks import KEYED, STUDIO
from tracker.api import Limits, create_api
from tracker.errors import InvalidRequest
from tracker.model.task import Status
from tracker.service.creation import CreateRequest

CREATE = {"provider": "kling", "kind": OMNI, "input": {"prompt": "a cat"}}
GATEWAY = f"/kling/v1/{OMNI}"
JSON = {"content-type": "application/json"}


def problem(reply: httpx.Response, status: int, kind: str) -> str:
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
    assert reply.json()["type"] == f"urn:homing:problem:{kind}"
    return str(reply.json()["detail"])


async def test_create_returns_task_as_it_is_shown(api: ApiHarness) -> None:
    body = {"external_id": "mine-1", "deadline": 90, "tags": ["spring"], "metadata": {"order": "17"}}
    wanted = {"prompt": "a cat", "model_name": "kling-v3-omni", "anything": [1]}
    url = "https://client.example.com/done"

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE | body | {"input": wanted, "callback_url": url})
        task = reply.json()
        shown = (await client.get(reply.headers["location"])).json()

    (row,) = await api.tasks()
    assert (reply.status_code, shown) == (201, task)
    assert (task["id"], task["external_id"], task["status"]) == (row.id, "mine-1", "submitted")
    assert (task["model"], task["tags"], task["metadata"]) == ("kling-v3-omni", ["spring"], {"order": "17"})
    assert (row.client_callback_url, row.deadline_at - row.created_at) == (url, timedelta(seconds=90))
    assert (row.answered_at, task["request"]) == (NOW, wanted)
    assert api.provider.creates == [wanted]


async def by_create(client: httpx.AsyncClient, name: Mapping[str, str], raw: str = '{"prompt": "a cat"}') -> str:
    """Submit at `POST /v1/tasks` with an external ID or an idempotency key, and return the task ID."""
    names = {key: name[key] for key in name.keys() & {"external_id"}}
    body = json.dumps({"provider": "kling", "kind": OMNI, **names})[:-1] + f', "input": {raw}}}'
    reply = await client.post("/v1/tasks", content=body, headers=JSON | by_key(name))
    assert reply.status_code in {200, 201}, reply.text
    return str(reply.json()["id"])


async def by_gateway(client: httpx.AsyncClient, name: Mapping[str, str], raw: str = '{"prompt": "a cat"}') -> str:
    """Submit the same at the gateway."""
    own = f', "external_task_id": {json.dumps(name["external_id"])}}}' if "external_id" in name else "}"
    reply = await client.post(GATEWAY, content=raw[:-1] + own, headers=JSON | by_key(name))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["data"]["task_id"])


def by_key(name: Mapping[str, str]) -> dict[str, str]:
    return {key: name[key] for key in name.keys() & {"idempotency-key"}}


@pytest.mark.parametrize("ways", [(by_create, by_gateway), (by_gateway, by_create), (by_create, by_create)])
@pytest.mark.parametrize(
    "name", [{"external_id": "order/7"}, {"idempotency-key": "key-7"}, {"external_id": "7", "idempotency-key": "k"}]
)
async def test_repeat_at_other_way_is_same_task(api: ApiHarness, ways: Any, name: dict[str, str]) -> None:
    async with api.client() as client:
        first, again = [await way(client, name) for way in ways]

    assert first == again
    assert len(api.provider.creates) == 1


async def test_equal_requests_without_name_are_two_tasks(api: ApiHarness) -> None:
    async with api.client() as client:
        ours = {await way(client, {}) for way in (by_create, by_gateway, by_create)}

    assert len(ours) == len(api.provider.creates) == 3


@pytest.mark.parametrize(
    "raw",
    [
        '{"prompt": "a cat", "n": 1.0, "x": [1e2, 0.1, -0.0, 1E-7, 12345678901234567, -9223372036854775808]}',
        '{"prompt": "\\u00e4\\ud83d\\ude00 ä😀", "x": {"b": null, "a": true}, "negative_prompt": ""}',
        '{"prompt": "a dog", "x": 1, "x": 2, "prompt": "a cat"}',
        '{"prompt": "a cat", "x": 0.30000000000000004, "y": 123456789.123456789, "z": 5e-324, "image": "QUJD"}',
    ],
)
async def test_both_ways_read_json_alike(api: ApiHarness, raw: str) -> None:
    async with api.client() as client:
        ours = {await way(client, {"external_id": "mine-1"}, raw) for way in (by_gateway, by_create)}

    assert len(ours) == len(api.provider.creates) == 1


async def test_repeat_of_existing_task_is_200_and_changes_nothing(api: ApiHarness) -> None:
    other = {"tags": ["late"], "metadata": {"order": "18"}, "deadline": 5, "callback_url": "https://example.com/hook"}

    async with api.client() as client:
        first = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1", "metadata": {"order": "17"}})
        again = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"} | other)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


@pytest.mark.parametrize("change", [{"input": {"prompt": "a dog"}}, {"kind": "images/generations"}])
async def test_used_name_with_other_request_is_409(api: ApiHarness, change: dict[str, Any]) -> None:
    key = {"idempotency-key": "key-1"}

    async with api.client() as client:
        await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"}, headers=key)
        by_id = await client.post("/v1/tasks", json=CREATE | change | {"external_id": "mine-1"})
        by_key = await client.post("/v1/tasks", json=CREATE | change, headers=key)

    for reply in (by_id, by_key):
        detail = problem(reply, 409, "conflict")
        assert "external_id or Idempotency-Key" in detail
        assert "External_task_id" not in detail
    assert len(api.provider.creates) == 1


async def the_creation_ended() -> None:
    """Wait until the intake's submit has ended. Return before the code that awaits it continues."""
    (creating,) = [task for task in asyncio.all_tasks() if "Intake.submit" in repr(task.get_coro())]
    while not creating.done():  # noqa: ASYNC110 - to wait for the task itself would be one step too long
        await asyncio.sleep(0)


@pytest.mark.parametrize("left_at_the_end", [False, True])
@pytest.mark.parametrize("again", [by_create, by_gateway])
async def test_repeat_after_disconnect_is_same_task(
    api: ApiHarness,
    again: Any,
    left_at_the_end: bool,  # noqa: FBT001 - a parameter
) -> None:
    gate = api.provider.gate = asyncio.Event()
    messages = iter([{"type": "http.request", "body": json.dumps(CREATE).encode(), "more_body": False}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is not None:
            return message
        if left_at_the_end:
            gate.set()
            await the_creation_ended()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    key = (b"authorization", LOCAL_HEADERS["authorization"].encode())
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), key]
    scope = {"type": "http", "method": "POST", "path": "/v1/tasks", "raw_path": b"/v1/tasks", "query_string": b""}
    app = create_api(api.tracker, LOCAL_ACCESS)
    await app(scope | {"headers": headers, "client": ("127.0.0.1", 5), "root_path": ""}, receive, send)
    gate.set()
    await until(lambda: bool(api.provider.ledger))

    (task,) = await api.tasks()
    async with api.client() as client:
        repeated = await again(client, {})
    assert (sent[0]["status"], task.answered_at) == (499, None)
    assert (repeated, len(api.provider.creates)) == (task.id, 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"provider": "nobody"}, "unknown provider 'nobody'; known: kling"),
    ({"kind": "videos/unknown"}, "unknown kind 'videos/unknown' of kling. Choose from"),
    ({"input": [1]}, "input: Input should be an object"),
    ({"input": {}}, "input: prompt is required: a text of"),
    ({"input": {"prompt": "a cat", "n": 99}}, "input: n must be"),
    ({"input": {"prompt": "a cat", "image_list": "a.png"}}, "input: image_list must be"),
    ({"input": {"prompt": "a cat", "external_task_id": "7"}}, "Send external_id and callback_url beside input"),
    ({"input": {"prompt": "a cat", "callback_url": "https://a.example"}}, "Send external_id and callback_url beside"),
    ({"input": {"prompt": "a cat", "callback_url": "http://10.0.0.1"}}, "input: callback_url"),
    ({"model": "kling-v3-omni"}, "model is not in the path of images/omni-image. Send it in the body, as model_name"),
    ({"kind": "text-to-video"}, "model must be a name in the path of text-to-video"),
    ({"kind": "text-to-video", "model": "../x"}, "model must be a name in the path of text-to-video"),
    ({"kind": "solutions/talking_agent", "model": "x"}, "Leave it out"),
    ({"external_id": ".."}, "external_id: 1 to 200 printable characters"),
    ({"external_id": "x" * 201}, "external_id: String should have at most 200 characters"),
    ({"callback_url": "http://127.0.0.1/hook"}, "callback_url "),
    ({"callback_url": "https://a.example/" + "x" * 2048}, "callback_url: String should have at most 2048"),
    ({"deadline": 0}, "deadline: Input should be greater than 0"),
    ({"tags": ["x"] * 21}, "tags: List should have at most 20 items"),
    ({"metadata": {"order": 17}}, "metadata.order: Input should be a valid string"),
    ({"metadata": {str(number): "" for number in range(51)}}, "metadata: Dictionary should have at most 50 items"),
    ({"external_task_id": "7"}, "external_task_id: unknown field; known are: callback_url, deadline, external_id,"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
async def test_wrong_field_is_named_and_nothing_is_sent(change: dict[str, Any], says: str) -> None:
    async with closed_client() as client:
        assert says in problem(await client.post("/v1/tasks", json=CREATE | change), 400, "invalid-request")


@pytest.mark.parametrize("headers", [{"idempotency-key": "x" * 201}, {"idempotency-key": ""}])
async def test_unusable_idempotency_key_is_400(headers: dict[str, str]) -> None:
    async with closed_client() as client:
        detail = problem(await client.post("/v1/tasks", json=CREATE, headers=headers), 400, "invalid-request")
    assert "Idempotency-Key" in detail


async def test_refusal_has_provider_code_and_task(api: ApiHarness) -> None:
    api.provider.always = kling_error(400, 1301, "risk control")

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"})
        api.provider.always = None
        again = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"})

    assert (problem(reply, 422, "refused"), reply.json()["provider_code"]) == ("risk control", "1301")
    statuses = {task.id: task.status for task in await api.tasks()}
    assert again.status_code == 201
    assert statuses == {reply.json()["task_id"]: Status.REJECTED, again.json()["id"]: Status.SUBMITTED}


async def test_busy_provider_is_429_with_retry_after(api: ApiHarness) -> None:
    api.provider.plan = ["busy"]

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE)

    problem(reply, 429, "refused")
    assert (reply.json()["provider_code"], reply.headers["retry-after"]) == ("1303", "3600")


async def test_lost_reply_is_success_with_unresolved_task(api: ApiHarness) -> None:
    api.provider.plan = ["reply lost"]

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"})
        again = await client.post("/v1/tasks", json=CREATE | {"external_id": "mine-1"})

    assert (reply.status_code, reply.json()["status"], reply.json()["reason"]) == (201, "pending", "unresolved")
    assert (again.status_code, again.json()["id"]) == (200, reply.json()["id"])
    assert len(api.provider.creates) == 1


async def test_refused_credential_is_503_without_its_text(api: ApiHarness) -> None:
    api.provider.always = kling_error(401, 1002, "access key ak-made-up is not known")

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE)

    problem(reply, 503, "credential-refused")
    assert "ak-made-up" not in reply.text
    assert "retry-after" in reply.headers


async def test_create_without_credential_sends_nothing(tmp_path: Path) -> None:
    async with api_harness(tmp_path, kling_api_key=None) as api, api.client() as client:
        reply = await client.post("/v1/tasks", json=CREATE)

    assert "credential missing" in problem(reply, 503, "credential-missing")
    assert api.provider.calls == []


async def test_input_may_be_as_large_as_at_the_gateway(api: ApiHarness) -> None:
    image = "QUJD" * (1 << 19)
    wanted = CREATE | {"input": {"prompt": "a cat", "image_list": [{"image": image}]}}

    async with api.client() as client:
        reply = await client.post("/v1/tasks", json=wanted)
    async with api.client(limits=Limits(gateway_body=1 << 20)) as client:
        larger = await client.post("/v1/tasks", json=wanted)

    assert reply.status_code == 201
    assert reply.json()["request"]["image_list"][0]["image"]["bytes"] == 3 << 19
    assert api.provider.creates[0]["image_list"] == [{"image": image}]
    problem(larger, 413, "too-large")


async def test_client_may_use_the_external_id_of_another(api: ApiHarness) -> None:
    async with api.client(KEYED) as client:
        mine = await client.post("/v1/tasks", json=CREATE | {"external_id": "order-7"}, headers=STUDIO)
        theirs = await client.post(
            "/v1/tasks",
            json=CREATE | {"external_id": "order-7"},
            headers={"authorization": "Bearer made-up-operator-key"},
        )

    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]
    assert {task.client for task in await api.tasks()} == {"studio", "operator"}


async def test_embedding_program_creates_task_in_one_call(api: ApiHarness) -> None:
    request = CreateRequest(
        provider="kling",
        kind=OMNI,
        input={"prompt": "a cat"},
        external_id="mine-1",
        deadline=timedelta(minutes=5),
        tags=["spring"],
        metadata={"order": "17"},
    )

    first = await api.tracker.create(OPERATOR, request)
    again = await api.tracker.create(OPERATOR, request)

    task = first.task
    assert (first.is_new, again.is_new, again.task) == (True, False, task)
    assert (task.external_id, task.tags, task.metadata) == ("mine-1", ("spring",), {"order": "17"})
    assert (task.deadline_at - task.created_at, task.answered_at) == (timedelta(minutes=5), NOW)


@pytest.mark.parametrize(
    "metadata",
    [{"": "x"}, {"k" * 65: "x"}, {"a\n": "x"}, {"a": "x" * 501}, {"a": "\0"}, {str(n): "" for n in range(51)}],
)
async def test_unusable_metadata_is_refused_in_process(api: ApiHarness, metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="metadata: "):
        await api.tracker.expect(OPERATOR, provider="kling", kind=OMNI, metadata=metadata)
