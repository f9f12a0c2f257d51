"""Every kind of Kling over real HTTP: submitted through the gateway, finished at the sandbox, read in Kling's shape."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.api_server import QUICK, Served, served
from tests.support.conditions import until
from tests.support.kling_examples import REQUESTS, path_of
from tracker.providers.kling import Kling
from tracker.providers.kling_kinds import KINDS

SandboxFactory = Callable[..., RunningSandbox]
MEDIA_TYPES = {"png": "image/png", "mp4": "video/mp4", "mp3": "audio/mpeg", "wav": "audio/wav"}
MEDIA_TYPES |= {"srt": "application/x-subrip", "ass": "text/x-ssa; charset=utf-8"}
# The first bytes of a real file: the signature of PNG, the box of MP4, a frame or tag of MP3, the header of WAV.
BEGINNINGS = {"png": (b"\x89PNG",), "mp4": (b"\0\0\0",), "mp3": (b"\xff", b"ID3"), "wav": (b"RIFF",)}
BEGINNINGS |= {"srt": (b"1\n",), "ass": (b"[Script Info]",)}


# The reconciler polls without waiting for callbacks.
SOON = replace(QUICK, first_poll_delay=timedelta(seconds=1), early_poll_delay=timedelta(seconds=1))


@pytest.fixture(params=["callbacks", "polls"])
def sandbox(request: pytest.FixtureRequest, kling_sandbox_factory: SandboxFactory) -> RunningSandbox:
    return kling_sandbox_factory(callbacks=request.param == "callbacks")


@pytest.fixture
async def homing(tmp_path: Path, sandbox: RunningSandbox, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    polled = "polls" in request.node.callspec.id
    async with served(tmp_path, sandbox, policy=SOON if polled else QUICK, polls_per_minute=1_000) as running:
        yield running


async def submitted(client: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    assert (reply.status_code, reply.json()["code"]) == (200, 0), (path, reply.text)
    return dict(reply.json()["data"])


def test_examples_have_every_kind() -> None:
    assert REQUESTS.keys() == Kling.kinds.keys()


async def test_every_kind_is_submitted_and_read_as_at_the_provider(homing: Served, sandbox: RunningSandbox) -> None:
    """What a client reads is what the provider says, except for IDs and times."""
    client, provider = homing.client, httpx.AsyncClient(base_url=sandbox.base_url, headers=sandbox.headers)
    made = {
        kind: await submitted(client, ("/kling" if number % 2 else "") + path_of(kind), dict(body))
        for number, (kind, body) in enumerate(REQUESTS.items())
    }
    truths = {task["kind"]: task for task in sandbox.ledger["tasks"]}
    assert truths.keys() == REQUESTS.keys()
    ours = {kind: str(data.get("task_id") or data["id"]) for kind, data in made.items()}

    for kind, task_id in ours.items():

        async def finished(kind: str = kind, task_id: str = task_id) -> bool:
            return (await read(client, kind, task_id))["status"] in SUCCEEDED

        await until(finished, pause=0.1)
    async with provider:
        for kind, task_id in ours.items():
            own_id = truths[kind]["id"]
            shown, theirs = await read(client, kind, task_id), await read(provider, kind, own_id)
            # Homing's ID and times are its own. The provider's answer about several tasks has no balance.
            for field in shown.keys() & theirs.keys() - OWN_FIELDS:
                assert with_known_fields(shown[field]) == with_known_fields(theirs[field]), (kind, field)
            assert shown.keys() >= theirs.keys() - {"watermark_info", "final_balance_deduction"}, kind
            [new] = (await client.get("/tasks", params={"task_ids": own_id})).json()["data"]
            [theirs] = (await provider.get("/tasks", params={"task_ids": own_id})).json()["data"]
            assert (new["id"], new["status"]) == (task_id, theirs["status"])
            # The pictures of an element are its request's, and no result.
            assert urls_in(new["outputs"]) == (urls_in(theirs["outputs"]) if kind != ELEMENTS else []), kind
            for url in urls_in(theirs["outputs"]):
                await is_real_file(provider, url)


async def test_lists_have_every_task_of_their_dialect(homing: Served) -> None:
    client = homing.client
    for kind, body in REQUESTS.items():
        await submitted(client, path_of(kind), dict(body))
    for kind in REQUESTS:
        if path_of(kind).startswith("/v1"):
            [listed] = (await client.get(path_of(kind))).json()["data"]
            assert listed["task_id"]
    for path, kinds in (("/tasks", list(REQUESTS)), ("/solutions", [k for k in REQUESTS if k.startswith("solutions")])):
        found, cursor = [], ""
        while True:
            page = (await client.post(f"/kling{path}", json={"limit": 7, "cursor": cursor})).json()["data"]
            assert page["count"] == len(page["result"]) <= 7
            found += page["result"]
            if not page["has_more"]:
                break
            cursor = page["next_cursor"]
        assert len({task["id"] for task in found}) == len(found) == len(kinds)
    for filters, count in (
        ([{"key": "product_type", "values": ["try_on"]}], 2),
        ([{"key": "status", "values": ["failed"]}], 0),
        ([{"key": "status", "values": ["submitted", "processing", "succeeded"]}], len(REQUESTS)),
    ):
        page = (await client.post("/tasks", json={"filters": filters})).json()["data"]
        assert page["count"] == count, filters
    for wrong in (
        {"limit": 0},
        {"cursor": "x"},
        {"filters": [{"key": "status", "values": ["x"]}]},
        {"start_time": "x"},
    ):
        reply = await client.post("/tasks", json=wrong)
        assert (reply.status_code, reply.json()["code"]) == (400, 1201), wrong


async def read(client: httpx.AsyncClient, kind: str, task_id: str) -> dict[str, Any]:
    """Read a task at the path of its own dialect. Its status is in "status"."""
    path = path_of(kind)
    if path.startswith("/v1"):
        data = dict((await client.get(f"{path}/{task_id}")).json()["data"])
        return data | {"status": data["task_status"]}
    [data] = (await client.get(KINDS[kind].lists_at, params={"task_ids": task_id})).json()["data"]
    return dict(data)


SUCCEEDED = {"succeed", "succeeded"}
OWN_FIELDS = {"id", "task_id", "task_info", "external_id", "created_at", "updated_at", "create_time", "update_time"}
OWN_FIELDS |= {"watermark_info", "final_balance_deduction"}
ELEMENTS = "general/advanced-custom-elements"
KNOWN = {"index", "url", "url_1", "url_2", "url_3", "id", "duration", "url_mp3", "url_wav", "duration_mp3"}
KNOWN |= {"images", "videos", "audios", "voices", "elements", "type", "name", "mp3_url", "wav_url", "charge_type"}
KNOWN |= {"mp3_duration", "wav_duration", "package_type", "amount"}
KNOWN |= {"duration_wav", "voice_id", "voice_name", "trial_url", "element_id", "element_name"}


def with_known_fields(value: Any) -> Any:
    """Return a value with the fields of results that Homing keeps. An owner and an element's pictures are not kept."""
    if isinstance(value, list):
        return [with_known_fields(each) for each in value]
    if isinstance(value, dict):
        return {name: with_known_fields(each) for name, each in value.items() if name in KNOWN}
    return value


def urls_in(value: object) -> list[str]:
    if isinstance(value, dict):
        return [url for each in value.values() for url in urls_in(each)]
    if isinstance(value, list):
        return [url for each in value for url in urls_in(each)]
    return [value] if isinstance(value, str) and value.startswith("http") else []


async def is_real_file(client: httpx.AsyncClient, url: str) -> None:
    end = url.partition("?")[0].rpartition(".")[2]
    reply = await client.get(url)
    assert (reply.status_code, reply.headers["content-type"]) == (200, MEDIA_TYPES[end])
    assert reply.content.startswith(BEGINNINGS[end])


async def test_inline_media_of_any_kind_is_kept_as_digest(homing: Served, sandbox: RunningSandbox) -> None:
    """The provider gets the content, the row keeps its digest and size."""
    content = "aGVsbG8="
    bodies = {
        "videos/image2video": {"image": content, "dynamic_masks": [{"mask": content}]},
        "videos/lip-sync": {"input": {"mode": "audio2video", "video_id": "1", "audio_file": content}},
        "videos/effects": {"effect_scene": "hug", "input": {"images": [content, content]}},
    }
    for kind, body in bodies.items():
        task_id = (await submitted(homing.client, f"/v1/{kind}", body))["task_id"]
        row = (await homing.client.get(f"/v1/tasks/{task_id}")).json()
        assert content not in str(row["request"])
        assert str(row["request"]).count("'bytes': 5") == str(body).count(content)
    assert len(sandbox.ledger["tasks"]) == len(bodies)


async def test_request_out_of_every_edition_is_refused_before_it_is_sent(
    homing: Served, sandbox: RunningSandbox
) -> None:
    for kind, body, named in (
        ("videos/text2video", {"prompt": "a cat", "duration": "60"}, "duration"),
        ("videos/image2video", {"prompt": "a cat"}, "image or image_tail is required"),
        ("audio/text-to-audio", {"prompt": "a" * 201, "duration": 5}, "prompt"),
        ("videos/lip-sync", {"input": {"mode": "text2video"}}, "input: video_id or video_url is required"),
    ):
        reply = await homing.client.post(f"/v1/{kind}", json=body)
        assert (reply.status_code, reply.json()["code"]) == (400, 1201)
        assert named in reply.json()["message"]
    assert sandbox.ledger["requests"]["create"] == 0


async def test_name_of_one_kind_is_taken_for_another(homing: Served, sandbox: RunningSandbox) -> None:
    """The same name and body at another product is not a repeat."""
    client = homing.client
    made = await submitted(client, "/v1/images/generations", {"prompt": "a cat", "external_task_id": "mine"})
    again = await submitted(client, "/v1/images/generations", {"prompt": "a cat", "external_task_id": "mine"})
    assert again["task_id"] == made["task_id"]
    for path, body in (
        ("/v1/videos/text2video", {"prompt": "a cat", "external_task_id": "mine"}),
        ("/text-to-video/kling-3.0", {"prompt": "a cat", "options": {"external_task_id": "mine"}}),
    ):
        reply = await client.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (400, 1201), path
        assert "already exists" in reply.json()["message"]
    assert sandbox.ledger["requests"]["create"] == 1


async def test_access_key_is_refused_for_newer_dialect_before_it_is_sent(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(access_keys={"made-up-access": "made-up-secret-of-at-least-32-bytes!"})
    pair: dict[str, Any] = {"kling_api_key": None, "kling_access_key": "made-up-access"}
    async with served(tmp_path, sandbox, **pair, kling_secret_key="made-up-secret-of-at-least-32-bytes!") as homing:
        reply = await homing.client.post("/text-to-video/kling-3.0", json={"prompt": "a cat"})
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert "needs an API key" in reply.json()["message"]
        await submitted(homing.client, "/v1/videos/text2video", {"prompt": "a cat"})
    assert sandbox.ledger["requests"]["create"] == 1
