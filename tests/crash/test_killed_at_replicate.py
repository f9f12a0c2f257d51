"""SIGKILL between a submission to Replicate and its reply: one prediction, never two, found without an ID of Homing."""

import asyncio
from pathlib import Path

import pytest

from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.deployment import forever, server
from tests.support.provider_proxy import Answer, Request, provider_proxy

PATH = "/replicate/v1/models/black-forest-labs/flux-schnell/predictions"
PROGRAM = ("-m", "tests.support.crashing_server")


@pytest.mark.parametrize("made", [False, True], ids=["the request was on its way", "the reply was on its way"])
async def test_kill_before_reply_of_replicate_makes_one_prediction(
    tmp_path: Path, kling_sandbox: RunningSandbox, *, made: bool
) -> None:
    kling_sandbox.set_faults({"callback_lost": 1.0})
    async with provider_proxy(kling_sandbox.base_url) as line:
        settings = {"replicate_base_url": f"{line.base_url}/replicate", "replicate_api_key": kling_sandbox.api_key}
        async with server(tmp_path, line.base_url, **settings) as homing:

            async def kill(request: Request) -> Answer | None:
                if request.method != "POST":
                    return await request.forward()
                if made:
                    await request.forward()
                homing.kill()
                await forever()
                return None

            await homing.start(program=PROGRAM)
            line.script = kill
            lost = asyncio.create_task(homing.client.post(PATH, json={"input": {"prompt": "a cat"}}))
            await homing.dead()
            await asyncio.wait({lost})
            line.script = Request.forwarded
            await homing.start(program=PROGRAM)
            # The client repeats its request, and gets the same task.
            again = await homing.client.post(PATH, json={"input": {"prompt": "a cat"}})

            async def found() -> bool:
                (task,) = await homing.tasks()
                return bool(task["status"] == "succeeded" if made else task["reason"] == "unresolved")

            await until(found, within=60)
            (task,) = await homing.tasks()

    assert lost.exception() is not None
    assert (again.status_code, again.json()["id"]) == (201, task["id"])
    assert [one["id"] for one in kling_sandbox.predictions] == ([task["provider_task_id"]] if made else [])
    assert kling_sandbox.ledger["prediction_requests"].get("create", 0) == (1 if made else 0)
