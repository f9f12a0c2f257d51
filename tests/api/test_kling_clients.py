"""The requests of two real clients, one by one: what they send, and what they need in the answers.

Written from their public code: npm `kling-api` 1.0.0, and the client of Kling's ComfyUI nodes. Both sign a token with
an access key and a secret, submit, and poll until the task ends.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest

from homing.sandbox import RunningSandbox
from tests.support.api_server import served
from tests.support.kling_examples import REQUESTS
from tracker.model.keys import ClientKey

PAIR: Final = ClientKey(access="made-up-access", secret="made-up-secret-of-at-least-32-bytes!")
OPEN: Final = {"submitted", "processing"}
# What each client submits, by its name for the job: the kind, and its changes to the usual request.
NPM: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "textToVideo": ("videos/text2video", {"model_name": "kling-v2-master"}),
    "imageToVideo": ("videos/image2video", {"model_name": "kling-v2-master"}),
    "generateImage": ("images/generations", {"model_name": "kling-v2", "n": 1}),
    "expandImage": ("images/editing/expand", {}),
    "createAvatar": ("videos/avatar/image2video", {}),
    "extendVideo": ("videos/video-extend", {}),
    "multiImageToVideo": ("videos/multi-image2video", {}),
    "omniVideo": ("videos/omni-video", {"model_name": "kling-video-o1", "aspect_ratio": "16:9"}),
    "omniImage": ("images/omni-image", {"model_name": "kling-image-o1"}),
    "multiImageToImage": ("images/multi-image2image", {"model_name": "kling-v2"}),
}
COMFY: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "Text2Video": ("videos/text2video", {"negative_prompt": "", "cfg_scale": 0.5, "mode": "std"}),
    "Image2Video": ("videos/image2video", {"negative_prompt": "", "camera_control": {}}),
    "ImageGenerator": ("images/generations", {"image_fidelity": 0.5}),
    "ImageExpander": ("images/editing/expand", {"n": 1}),
    "VideoExtend": ("videos/video-extend", {}),
    "MultiImages2Video": ("videos/multi-image2video", {}),
    "Text2Audio": ("audio/text-to-audio", {}),
    "Video2Audio": ("audio/video-to-audio", {"bgm_prompt": ""}),
    "KolorsVirtualTryOn": ("images/kolors-virtual-try-on", {}),
    "MultiModelVideoEdit": ("videos/multi-elements", {"edit_mode": "removal"}),
    "LipSync": ("videos/lip-sync", {}),
    "Effects": ("videos/effects", {}),
}


def token() -> str:
    now = int(time.time())
    return jwt.encode({"iss": PAIR.access, "exp": now + 1800, "nbf": now - 5}, PAIR.secret, algorithm="HS256")


async def finished(client: httpx.AsyncClient, path: str, created: httpx.Response) -> dict[str, Any]:
    """Poll as both clients do: by the ID of the reply, until the status is no longer open."""
    assert created.status_code == 200, created.text
    assert created.json()["code"] == 0
    data = created.json()["data"]
    assert {"task_id", "task_status", "created_at", "updated_at"} <= data.keys()
    async with asyncio.timeout(60):
        while data["task_status"] in OPEN:
            await asyncio.sleep(0.05)
            reply = await client.get(f"{path}/{data['task_id']}")
            assert reply.status_code == 200, reply.text
            data = reply.json()["data"]
    return dict(data)


@pytest.mark.parametrize(("jobs", "slashes"), [(NPM, ""), (COMFY, "/")], ids=["kling-api", "ComfyUI nodes"])
async def test_every_job_of_a_real_client_ends_with_its_result(
    tmp_path: Path, kling_sandbox: RunningSandbox, jobs: Mapping[str, tuple[str, dict[str, Any]]], slashes: str
) -> None:
    """The ComfyUI nodes send a second slash before the ID of one product."""
    async with (
        served(tmp_path, kling_sandbox, client_keys=(PAIR,)) as homing,
        httpx.AsyncClient(
            base_url=homing.url, headers={"authorization": f"Bearer {token()}"}, trust_env=False, timeout=30
        ) as client,
    ):
        made = {}
        for name, (kind, changes) in jobs.items():
            made[name] = await client.post(f"/v1/{kind}", json=dict(REQUESTS[kind]) | changes)
        for name, (kind, _) in jobs.items():
            done = await finished(client, f"/v1/{kind}{slashes}", made[name])
            assert (name, done["task_status"]) == (name, "succeed")
            assert isinstance(done["created_at"], int)
            assert isinstance(done["task_status_msg"], str)
            # Both take the first entry of the list of their product.
            names = {"images", "videos", "audios"} & done["task_result"].keys()
            assert names, (name, done["task_result"])
            for listed in names:
                first = done["task_result"][listed][0]
                assert first.get("url") or (first["url_mp3"] and first["url_wav"])
        tasks = (await homing.client.get("/v1/tasks", params={"limit": "50"})).json()["tasks"]
        assert {task["client"] for task in tasks} == {PAIR.access}
    assert kling_sandbox.ledger["requests"]["create"] == len(jobs)
