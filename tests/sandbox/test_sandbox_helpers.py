"""The sandbox's calls that are answered at once, and the charges in its ledger."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from homing.sandbox.helpers import PRESET_VOICES, TTS_VOICES

TTS = "/v1/audio/tts"
SPEECH = {"text": "hello", "voice_id": TTS_VOICES[0]}
SESSION = "/v1/videos/multi-elements"


def post(sandbox: RunningSandbox, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    with httpx.Client(base_url=sandbox.base_url, headers=sandbox.headers, trust_env=False) as client:
        reply = client.post(path, json=body)
    answer = reply.json()
    return reply.status_code, answer["data"] if answer["code"] == 0 else answer["message"]


def test_paid_calls_are_charged_in_ledger(kling_sandbox: RunningSandbox) -> None:
    status, speech = post(kling_sandbox, TTS, SPEECH)
    post(kling_sandbox, "/kling/v1/videos/image-recognize", {"image": "aGVsbG8="})
    post(kling_sandbox, f"{SESSION}/init-selection", {"video_id": "1"})

    assert (status, speech["final_unit_deduction"]) == (200, "0.05")
    charges = [(charge["call"], charge["units"]) for charge in kling_sandbox.ledger["charges"]]
    assert charges == [(TTS, 0.05), ("/v1/videos/image-recognize", 0.1)]
    assert kling_sandbox.ledger["requests"]["helper"] == 3


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (TTS, SPEECH | {"voice_id": PRESET_VOICES[0]}, "Voice id not found"),
        (TTS, SPEECH | {"text": "a" * 1001}, "text is a text of at most 1000 characters"),
        (TTS, SPEECH | {"voice_speed": 3}, "voice_speed is from 0.8 to 2"),
        (TTS, {"text": "a"}, "voice_id: must not be null"),
        (f"{SESSION}/clear-selection", {"session_id": "nobody"}, "Session id not found"),
        (
            f"{SESSION}/init-selection",
            {"video_id": "1", "video_url": "u"},
            "send exactly one of video_id and video_url",
        ),
        ("/v1/general/delete-elements", {"element_id": "1"}, "Element id not found"),
    ],
)
def test_refused_call_is_not_charged(
    kling_sandbox: RunningSandbox, path: str, body: dict[str, Any], message: str
) -> None:
    assert post(kling_sandbox, path, body) == (400, message)
    assert kling_sandbox.ledger["charges"] == []


def test_lost_helper_reply_is_charged(kling_sandbox_factory: Callable[..., RunningSandbox]) -> None:
    sandbox = kling_sandbox_factory(faults={"helper_reply_lost": 1.0}, hang_for=0.0)

    with pytest.raises(httpx.TransportError):
        post(sandbox, TTS, SPEECH)

    assert [charge["call"] for charge in sandbox.ledger["charges"]] == [TTS]
