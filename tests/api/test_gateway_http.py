"""The gateway over real HTTP: Homing's own server, its real tracker on SQLite, and the sandbox as the provider."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from homing.sandbox import RunningSandbox
from tests.support.api_keys import LOCAL_LINE
from tests.support.api_server import OMNI, OPERATOR, OTHER, STUDIO, Served, served
from tests.support.conditions import until
from tests.support.provider_proxy import Answer, Request, provider_proxy
from tracker.api import Limits
from tracker.model.keys import ClientKey
from tracker.model.task import ClientIdentity

CAT = {"prompt": "a cat", "model_name": "kling-v3-omni"}
PAIR = ClientKey(access="made-up-access", secret="made-up-secret-of-at-least-32-bytes!")
SandboxFactory = Callable[..., RunningSandbox]


@pytest.fixture
async def homing(tmp_path: Path, kling_sandbox: RunningSandbox) -> AsyncIterator[Served]:
    async with served(tmp_path, kling_sandbox) as running:
        yield running


def raw_create(body: bytes, *, length: int | None = None) -> bytes:
    head = [
        f"POST {OMNI} HTTP/1.1",
        "Host: 127.0.0.1",
        LOCAL_LINE,
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


async def submitted(client: httpx.AsyncClient, **changes: Any) -> str:
    reply = await client.post(OMNI, json=CAT | changes)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["data"]["task_id"])


async def status(client: httpx.AsyncClient, ref: str) -> str:
    return str((await client.get(f"{OMNI}/{ref}")).json()["data"]["task_status"])


@pytest.mark.parametrize("prefix", ["/kling", ""])
async def test_kling_client_changes_only_its_base_url(
    homing: Served, kling_sandbox: RunningSandbox, prefix: str
) -> None:
    client = homing.client
    created = await client.post(prefix + OMNI, json=CAT | {"external_task_id": "mine/1", "n": 2})
    assert (created.status_code, created.json()["code"]) == (200, 0)
    ours = created.json()["data"]["task_id"]

    async def is_finished() -> bool:
        return await status(client, ours) == "succeed"

    await until(is_finished)
    [truth] = kling_sandbox.ledger["tasks"]
    for ref in (ours, truth["id"], "mine%2F1"):
        data = (await client.get(f"{prefix}{OMNI}/{ref}")).json()["data"]
        assert data["task_id"] == ours
        assert [image["url"] for image in data["task_result"]["images"]] == truth["result_urls"]
        assert data["task_info"]["external_task_id"] == "mine/1"
    listed = (await client.get(f"{prefix}{OMNI}?pageNum=1&pageSize=1")).json()["data"]
    assert [task["task_id"] for task in listed] == [ours]
    batch = (await client.get(f"{prefix}/tasks", params={"task_ids": f"{truth['id']},nobody"})).json()["data"]
    assert [(task["id"], task["status"]) for task in batch] == [(ours, "succeeded")]
    assert [output["url"] for output in batch[0]["outputs"]] == truth["result_urls"]
    # The provider gets an ID that Homing made.
    assert re.fullmatch(r"hm[0-9a-z]{26}", truth["external_id"])


async def test_task_of_other_kind_is_not_found_without_lookup(homing: Served, kling_sandbox: RunningSandbox) -> None:
    ours = await submitted(homing.client, external_task_id="mine-1")

    async def finished() -> bool:
        return await status(homing.client, ours) == "succeed"

    await until(finished)
    refs = (ours, kling_sandbox.ledger["tasks"][0]["id"], "mine-1")
    before = kling_sandbox.ledger["requests"]

    replies = [await homing.client.get(f"/v1/videos/text2video/{ref}") for ref in refs]

    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [(400, 1201)] * 3
    assert kling_sandbox.ledger["requests"] == before


async def test_callback_url_is_never_shown_or_logged(
    homing: Served, kling_sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ours = await submitted(homing.client, callback_url="https://client.example.com/done")
    callback_url = kling_sandbox.task(ours)["callback_url"]
    assert callback_url.startswith(f"{homing.url}/callbacks/kling/")
    token = callback_url.rpartition("/")[2]

    async def is_finished() -> bool:
        return await status(homing.client, ours) == "succeed"

    await until(is_finished)
    paths = (OMNI, f"{OMNI}/{ours}", f"/tasks?task_ids={ours}", f"/v1/tasks/{ours}", f"/v1/tasks/{ours}/history")
    for path in (*paths, "/v1/stats", "/readyz"):
        reply = await homing.client.get(path)
        assert reply.status_code == 200
        assert token not in reply.text
    # The sandbox and its client also run in this process. Their log lines are excluded. (The server's access log is
    # off; pytest switches every silent logger on again.)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("homing.", "uvicorn.error"))]
    assert lines
    assert not [line for line in lines if token in line or kling_sandbox.api_key in line or "a cat" in line]


async def test_official_token_submits_and_sees_own_tasks(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    now = datetime.now(UTC)
    claims = {"iss": PAIR.access, "exp": now + timedelta(minutes=30), "nbf": now - timedelta(seconds=5)}
    token = {"authorization": f"Bearer {jwt.encode(claims, PAIR.secret, algorithm='HS256')}"}
    keys = (STUDIO, OTHER, OPERATOR)
    async with served(tmp_path, kling_sandbox, api_keys=keys, client_keys=(PAIR,)) as homing:
        client = homing.client
        reply = await client.post(OMNI, json=CAT, headers=token)
        ours = reply.json()["data"]["task_id"]
        truth = kling_sandbox.task(ours)["id"]
        for ref in (ours, truth):
            assert (await client.get(f"{OMNI}/{ref}", headers=token)).status_code == 200
            theirs = await client.get(f"{OMNI}/{ref}")
            assert (theirs.status_code, theirs.json()["code"]) == (400, 1201)
            assert (await client.get(f"/tasks?task_ids={ref}")).json()["data"] == []
            assert (await client.get(f"/v1/tasks/{ref}")).status_code == 404
        sees_all = {"authorization": f"Bearer {OPERATOR.key}"}
        assert (await client.get(f"/v1/tasks/{ours}", headers=sees_all)).json()["client"] == PAIR.access
        assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_repeated_external_id_returns_same_task(homing: Served, kling_sandbox: RunningSandbox) -> None:
    first = await submitted(homing.client, external_task_id="mine-1")
    assert await submitted(homing.client, external_task_id="mine-1", callback_url="https://a.example.com") == first
    reply = await homing.client.post(OMNI, json=CAT | {"external_task_id": "mine-1", "prompt": "a dog"})
    assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert reply.json()["message"] == "External_task_id mine-1 already exists"
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_repeated_idempotency_key_returns_same_task(homing: Served, kling_sandbox: RunningSandbox) -> None:
    headers = {"idempotency-key": "once"}
    replies = await asyncio.gather(*(homing.client.post(OMNI, json=CAT, headers=headers) for _ in range(5)))
    assert len({reply.json()["data"]["task_id"] for reply in replies}) == 1
    assert (await homing.client.post(OMNI, json={"prompt": "a dog"}, headers=headers)).status_code == 400
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_provider_refusal_frees_the_external_id(homing: Served) -> None:
    wrong = CAT | {"model_name": "kling-image-o1", "result_type": "series", "external_task_id": "mine-1"}
    reply = await homing.client.post(OMNI, json=wrong)
    assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert reply.json()["message"] == "result_type series is only for kling-v3-omni"
    assert (await homing.client.get(OMNI)).json()["data"] == []
    rejected = (await homing.client.get("/v1/tasks?status=rejected")).json()["tasks"]
    assert [task["external_id"] for task in rejected] == ["mine-1"]
    assert await submitted(homing.client, external_task_id="mine-1")


async def test_refused_credential_is_an_operator_error(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, kling_api_key="made-up-wrong-key") as homing:
        reply = await homing.client.post(OMNI, json=CAT)
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert "credential refused" in reply.json()["message"]
        assert "retry-after" in reply.headers
        alarms = (await homing.client.get("/v1/stats")).json()["alarms"]
        assert "credential" in [alarm["kind"] for alarm in alarms]
        assert "made-up-wrong-key" not in json.dumps(alarms) + reply.text


async def test_missing_credential_error_names_the_setting(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    named: dict[str, Any] = {"headers": {"idempotency-key": "once"}, "json": CAT | {"external_task_id": "mine-1"}}
    async with served(tmp_path, kling_sandbox, kling_api_key=None) as homing:
        reply = await homing.client.post(OMNI, **named)
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        for setting in ("HOMING_KLING_API_KEY", "HOMING_KLING_ACCESS_KEY", "HOMING_KLING_SECRET_KEY"):
            assert setting in reply.json()["message"]
        assert "retry-after" in reply.headers
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []
        assert (await homing.client.get("/v1/stats")).json()["alarms"] == []
    async with served(tmp_path, kling_sandbox) as homing:
        ours = (await homing.client.post(OMNI, **named)).json()["data"]["task_id"]
    async with served(tmp_path, kling_sandbox, kling_api_key=None) as homing:
        # An error would mean that nothing was created.
        assert (await homing.client.post(OMNI, **named)).json()["data"]["task_id"] == ours
    assert kling_sandbox.ledger["requests"]["create"] == 1


async def test_no_free_slot_returns_retry_after(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    async with served(tmp_path, kling_sandbox_factory(slots=1, held=True)) as homing:
        await submitted(homing.client)
        reply = await homing.client.post(OMNI, json={"prompt": "a dog"})
        assert (reply.status_code, reply.json()["code"]) == (429, 1303)
        assert int(reply.headers["retry-after"]) >= 1


async def test_unreachable_provider_returns_5001(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, kling_base_url="http://127.0.0.1:9") as homing:
        reply = await homing.client.post(OMNI, json=CAT)
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert "retry-after" in reply.headers
    assert kling_sandbox.ledger["tasks"] == []


async def test_task_known_to_provider_is_adopted_on_lookup(homing: Served, kling_sandbox: RunningSandbox) -> None:
    async with httpx.AsyncClient(base_url=kling_sandbox.base_url, headers=kling_sandbox.headers) as direct:
        made = (await direct.post(OMNI, json=CAT)).json()["data"]["task_id"]
        other = (await direct.post(OMNI, json=CAT)).json()["data"]["task_id"]
    ours = (await homing.client.get(f"{OMNI}/{made}")).json()["data"]["task_id"]
    assert ours.startswith("hm")
    batch = (await homing.client.get(f"/tasks?task_ids={made},{other},nobody")).json()["data"]
    assert batch[0]["id"] == ours
    assert len(batch) == 2
    reply = await homing.client.get(f"{OMNI}/nobody")
    assert reply.json()["message"] == "Task not found by id/external id: nobody"
    assert reply.status_code == 400


async def test_disconnected_client_still_gets_its_task(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = kling_sandbox_factory()
    answering = asyncio.Event()

    async def held_back(request: Request) -> Answer | None:
        reply = await request.forward()
        if request.creates:
            await answering.wait()
        return reply

    async with (
        provider_proxy(sandbox.base_url, held_back) as line,
        served(tmp_path, sandbox, kling_base_url=line.base_url) as homing,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", homing.port)
        writer.write(raw_create(json.dumps(CAT).encode()))
        await writer.drain()

        async def arrived() -> bool:
            return len((await homing.client.get(OMNI)).json()["data"]) == 1

        await until(arrived)
        writer.close()
        await writer.wait_closed()
        ours = (await homing.client.get(OMNI)).json()["data"][0]["task_id"]

        async def noticed() -> bool:
            return (await homing.tracker.get(ClientIdentity(name="local", sees_all=True), ours)).taken_by is None

        await until(noticed)
        # An automatic retry by the client with the same body makes no second task either.
        again = asyncio.create_task(homing.client.post(OMNI, json=CAT))
        answering.set()
        assert (await again).json()["data"]["task_id"] == ours

        async def is_finished() -> bool:
            tasks = (await homing.client.get(OMNI)).json()["data"]
            return [task["task_status"] for task in tasks] == ["succeed"]

        await until(is_finished)
        assert len(sandbox.ledger["tasks"]) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_truncated_body_raises_no_alarm(homing: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, writer = await asyncio.open_connection("127.0.0.1", homing.port)
    writer.write(raw_create(b'{"prompt":', length=1000))
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    async def noticed() -> bool:
        return any(f"POST {OMNI} 400" in record.getMessage() for record in caplog.records)

    await until(noticed)
    assert (await homing.client.get(OMNI)).json()["data"] == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_dripping_body_returns_408_and_closes(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    limits = Limits(gateway_body_time=timedelta(milliseconds=200))
    async with served(tmp_path, kling_sandbox, limits=limits) as homing:
        reader, writer = await asyncio.open_connection("127.0.0.1", homing.port)
        writer.write(raw_create(b'{"prompt":', length=1000))
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == 1200


@pytest.mark.parametrize("chunked", [False, True])
async def test_oversized_body_returns_413(tmp_path: Path, kling_sandbox: RunningSandbox, *, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 10_000

    async with served(tmp_path, kling_sandbox, body_limit=1_000_000) as homing:
        content = pieces() if chunked else b" " * 2_000_000
        reply = await homing.client.post(OMNI, content=content, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["code"]) == (413, 1200)
        assert await submitted(homing.client)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b'{"prompt":"a","n":NaN}',
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"a","x":' + b"9" * 30 + b"}",
        b"[" * 100_000,
        b'{"prompt":7}',
        b'{"prompt":"a","n":"many"}',
    ],
)
async def test_hostile_body_returns_envelope_and_no_task(
    homing: Served, kling_sandbox: RunningSandbox, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await homing.client.post(OMNI, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["code"] in {1200, 1201}
    assert kling_sandbox.ledger["requests"]["create"] == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
