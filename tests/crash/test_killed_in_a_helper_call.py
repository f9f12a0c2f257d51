"""SIGKILL between a helper call and its answer: it is charged once, and the repeat shows that its result is unknown."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from homing.sandbox import RunningSandbox
from homing.sandbox.helpers import TTS_VOICES
from tests.support.conditions import until
from tests.support.deployment import HOMING, forever, server
from tests.support.provider_proxy import Answer, Request, provider_proxy

TTS = "/v1/audio/tts"
SPEECH = {"text": "hello", "voice_id": TTS_VOICES[0]}
KEY = {"idempotency-key": "one"}


async def test_kill_before_helper_answer_is_unknown_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:

        async def kill(request: Request) -> Answer | None:
            await request.forward()
            homing.kill()
            await forever()
            return None

        async def shown() -> list[dict[str, Any]]:
            calls: list[dict[str, Any]] = (await homing.client.get("/v1/helper-calls")).json()["calls"]
            return calls

        async def is_unknown() -> bool:
            return [call["state"] for call in await shown()] == ["unknown"]

        await homing.start(program=HOMING)
        line.script = kill
        client = asyncio.create_task(homing.client.post(TTS, json=SPEECH, headers=KEY))
        await homing.dead()
        [lost] = await asyncio.gather(client, return_exceptions=True)
        line.script = Request.forwarded

        await homing.start(program=HOMING)
        # The restarted process sees it without a repeat.
        await until(is_unknown, within=60, pause=0.1)
        again = await homing.client.post(TTS, json=SPEECH, headers=KEY)
        alarms = (await homing.client.get("/v1/stats")).json()["alarms"]

    assert isinstance(lost, httpx.TransportError)
    assert (again.status_code, again.json()["code"]) == (500, 5000)
    assert "unknown" in again.json()["message"]
    assert [alarm["kind"] for alarm in alarms] == ["unanswered_call"]
    assert [charge["call"] for charge in kling_sandbox.ledger["charges"]] == [TTS]
