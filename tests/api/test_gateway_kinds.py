"""Every kind of Kling over real HTTP: submitted through the gateway, finished at the sandbox, read in Kling's shape."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.api_server import Served, served
from tests.support.conditions import until
from tests.support.kling_examples import REQUESTS
from tracker.providers.kling import Kling

SandboxFactory = Callable[..., RunningSandbox]
MEDIA_TYPES = {"png": "image/png", "mp4": "video/mp4", "mp3": "audio/mpeg", "wav": "audio/wav"}
# The first bytes of a real file: the signature of PNG, the box of MP4, a frame or tag of MP3, the header of WAV.
BEGINNINGS = {"png": (b"\x89PNG",), "mp4": (b"\0\0\0",), "mp3": (b"\xff", b"ID3"), "wav": (b"RIFF",)}


@pytest.fixture(params=["callbacks", "polls"])
def sandbox(request: pytest.FixtureRequest, kling_sandbox_factory: SandboxFactory) -> RunningSandbox:
    return kling_sandbox_factory(callbacks=request.param == "callbacks")


@pytest.fixture
async def homing(tmp_path: Path, sandbox: RunningSandbox) -> AsyncIterator[Served]:
    async with served(tmp_path, sandbox) as running:
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
        kind: await submitted(client, f"{'/kling' if number % 2 else ''}/v1/{kind}", dict(body))
        for number, (kind, body) in enumerate(REQUESTS.items())
    }
    truths = {task["kind"]: task for task in sandbox.ledger["tasks"]}
    assert truths.keys() == REQUESTS.keys()

    async def read(kind: str) -> dict[str, Any]:
        return dict((await client.get(f"/v1/{kind}/{made[kind]['task_id']}")).json()["data"])

    async def finished() -> bool:
        return all([(await read(kind))["task_status"] == "succeed" for kind in made])

    await until(finished, within=60)
    async with provider:
        for kind, created in made.items():
            own_id = truths[kind]["id"]
            shown = await read(kind)
            theirs = (await provider.get(f"/v1/{kind}/{own_id}")).json()["data"]
            assert shown["task_id"] == created["task_id"]
            # A query for several tasks tells no balance.
            for field in ("task_status", "task_status_msg", "final_unit_deduction"):
                assert shown.get(field) == theirs.get(field), (kind, field)
            assert with_known_fields(shown["task_result"]) == with_known_fields(theirs["task_result"]), kind
            [listed] = (await client.get(f"/kling/v1/{kind}")).json()["data"]
            assert listed == shown
            [batch] = (await client.get("/tasks", params={"task_ids": own_id})).json()["data"]
            [new] = (await provider.get("/tasks", params={"task_ids": own_id})).json()["data"]
            assert (batch["id"], batch["status"]) == (created["task_id"], "succeeded")
            # The pictures of an element are its request's, and no result.
            assert urls_in(batch["outputs"]) == (urls_in(new["outputs"]) if kind != ELEMENTS else []), kind
            for url in urls_in(shown["task_result"]):
                await is_real_file(provider, url)


ELEMENTS = "general/advanced-custom-elements"
KNOWN = {"index", "url", "url_1", "url_2", "url_3", "id", "duration", "url_mp3", "url_wav", "duration_mp3"}
KNOWN |= {"duration_wav", "voice_id", "voice_name", "trial_url", "element_id", "element_name"}


def with_known_fields(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with the fields that Homing keeps. An owner and the pictures of an element are not."""
    kept = {}
    for name, entries in result.items():
        if isinstance(entries, list):
            kept[name] = [{field: value for field, value in entry.items() if field in KNOWN} for entry in entries]
    return kept


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
    await asyncio.sleep(0)
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
