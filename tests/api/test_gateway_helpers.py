"""The gateway's helper calls over real HTTP: the sandbox's ledger shows each charge."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from homing.sandbox.helpers import PRESET_VOICES, TTS_VOICES
from tests.support.api_server import OPERATOR, OTHER, QUICK, STUDIO, Served, served
from tests.support.conditions import until
from tests.support.kling_examples import REQUESTS
from tests.support.provider_proxy import Answer, Request, provider_proxy
from tracker.errors import NotSent
from tracker.model.helper_records import HelperState
from tracker.model.provider_objects import Claim, ObjectRef, ObjectType
from tracker.providers.base import Reply
from tracker.providers.kling_helpers import GROUPS, HELPERS

TTS, FACES, RECOGNIZE = "/v1/audio/tts", "/v1/videos/identify-face", "/v1/videos/image-recognize"
SELECTION, VOICES, ELEMENTS = "/v1/videos/multi-elements", "/v1/general/custom-voices", "/v1/general/custom-elements"
COSTS = "/account/costs?start_time=1700000000000&end_time=1700000000001"
SPEECH = {"text": "hello", "voice_id": TTS_VOICES[0], "voice_language": "en"}
VIDEO = {"video_url": "https://files.example/a.mp4"}
VOICE = {"voice_name": "me", "voice_url": "https://files.example/a.mp3"}
ELEMENT = {
    "element_name": "cat",
    "element_description": "a cat",
    "element_frontal_image": "https://files.example/a.png",
    "element_refer_list": [{"image_url": "https://files.example/b.png"}],
}
KEYS = (STUDIO, OTHER, OPERATOR)
THEIRS = {"authorization": f"Bearer {OTHER.key}"}
SEES_ALL = {"authorization": f"Bearer {OPERATOR.key}"}
AMPLE = replace(QUICK, budget=60_000, client_budget=60_000)
SandboxFactory = Callable[..., RunningSandbox]


@pytest.fixture
async def homing(tmp_path: Path, kling_sandbox: RunningSandbox) -> AsyncIterator[Served]:
    async with served(tmp_path, kling_sandbox, api_keys=KEYS, policy=AMPLE) as running:
        yield running


def key(name: str, **headers: str) -> dict[str, str]:
    return {"idempotency-key": name, **headers}


def charges(sandbox: RunningSandbox) -> list[str]:
    return [charge["call"] for charge in sandbox.ledger["charges"]]


def outcome(reply: httpx.Response) -> tuple[int, int, str]:
    body = reply.json()
    return reply.status_code, body["code"], body["message"]


async def done(client: httpx.AsyncClient, path: str, body: Any, **headers: str) -> Any:
    reply = await client.post(path, json=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (200, 0), reply.text
    return reply.json()["data"]


async def voice(homing: Served, **headers: str) -> str:
    """Let a client make a voice by a task, and return its ID."""
    task = await done(homing.client, VOICES, VOICE, **headers)

    async def made() -> bool:
        shown = await homing.client.get(f"{VOICES}/{task['task_id']}", headers=headers)
        return bool(shown.json()["data"]["task_result"])

    await until(made)
    shown = await homing.client.get(f"{VOICES}/{task['task_id']}", headers=headers)
    return str(shown.json()["data"]["task_result"]["voices"][0]["voice_id"])


@pytest.mark.parametrize("prefix", ["", "/kling"])
async def test_helper_calls_pass_through(homing: Served, kling_sandbox: RunningSandbox, prefix: str) -> None:
    client = homing.client

    speech = await done(client, prefix + TTS, SPEECH)
    faces = await done(client, prefix + FACES, VIDEO)
    seen = await done(client, prefix + RECOGNIZE, {"image": "aGVsbG8="})
    session = (await done(client, f"{prefix}{SELECTION}/init-selection", VIDEO))["session_id"]
    point = {"session_id": session, "frame_index": 0, "points": [{"x": 0.5, "y": 0.5}]}
    for step in ("add", "delete", "clear", "preview"):
        assert (await done(client, f"{prefix}{SELECTION}/{step}-selection", point))["status"] == 0
    presets = (await client.get(f"{prefix}/v1/general/presets-voices?pageSize=1")).json()["data"]

    assert speech["task_status"] == "succeed"
    assert faces["face_data"][0]["face_id"] == "0"
    assert len(seen["task_result"]["images"]) == 4
    assert [entry["task_result"]["voices"][0]["voice_id"] for entry in presets] == [PRESET_VOICES[0]]
    assert charges(kling_sandbox) == [TTS, FACES, RECOGNIZE]


async def test_helper_bodies_are_bounded_and_forwarded(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    sent: list[Request] = []

    async def kept(request: Request) -> Answer | None:
        sent.append(request)
        return await request.forward()

    async with provider_proxy(kling_sandbox.base_url) as line:
        line.script = kept
        async with served(tmp_path, kling_sandbox, kling_base_url=line.base_url) as homing:
            for wrong, name in (
                ({"text": "a" * 1001}, "text"),
                ({"voice_speed": 2.1}, "voice_speed"),
                ({"voice_id": ""}, "voice_id"),
            ):
                refused = await homing.client.post(TTS, json=SPEECH | wrong)
                assert outcome(refused)[:2] == (400, 1201)
                assert name in refused.json()["message"]
            assert sent == []
            extra = {"mood": "calm", "callback_url": "https://client.example/x", "external_task_id": "mine"}
            await done(homing.client, TTS, SPEECH | extra, **{"cookie": "a=b", "x-other": "c"})

    assert [request.target for request in sent] == [TTS]
    assert b"calm" in sent[0].body
    assert b"client.example" not in sent[0].body
    assert b"mine" not in sent[0].body
    head = {name.lower(): value for name, value in sent[0].headers.items()}
    assert head["authorization"] == f"Bearer {kling_sandbox.api_key}"
    assert not {"cookie", "x-other", "idempotency-key"} & head.keys()


async def test_repeat_with_key_gets_the_recorded_answer(homing: Served, kling_sandbox: RunningSandbox) -> None:
    first = await homing.client.post(TTS, json=SPEECH, headers=key("one"))

    again = await homing.client.post("/kling" + TTS, json=SPEECH, headers=key("one"))
    other_body = await homing.client.post(TTS, json=SPEECH | {"text": "bye"}, headers=key("one"))
    other_call = await homing.client.post(FACES, json=VIDEO, headers=key("one"))
    other_client = await homing.client.post(TTS, json=SPEECH, headers=key("one", **THEIRS))

    assert again.json()["data"] == first.json()["data"]
    assert again.json()["request_id"] == again.headers["x-request-id"] != first.json()["request_id"]
    assert outcome(other_body)[:2] == outcome(other_call)[:2] == (400, 1201)
    assert "Idempotency-Key" in other_body.json()["message"]
    assert other_client.status_code == 200
    assert charges(kling_sandbox) == [TTS, TTS]


async def test_concurrent_repeats_are_one_call(homing: Served, kling_sandbox: RunningSandbox) -> None:
    sending = [homing.client.post(TTS, json=SPEECH, headers=key("one")) for _ in range(5)]

    replies = await asyncio.gather(*sending)

    assert {reply.json()["data"]["task_id"] for reply in replies} == {replies[0].json()["data"]["task_id"]}
    assert charges(kling_sandbox) == [TTS]


class Waiting:
    """A sender whose calls wait until they are let go, and then were not sent."""

    def __init__(self) -> None:
        self.began, self.gate = asyncio.Event(), asyncio.Event()

    async def send(self, *_: object, **__: object) -> Reply:
        self.began.set()
        await self.gate.wait()
        raise NotSent("the test ends")


async def test_waiting_repeats_hold_their_bodies(
    tmp_path: Path, kling_sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, speech = Waiting(), SPEECH | {"text": "a" * 900}
    policy = replace(AMPLE, helper_capacity=2_500)
    async with served(tmp_path, kling_sandbox, api_keys=KEYS, policy=policy) as homing:
        monkeypatch.setattr(homing.tracker.helpers, "_transport", sender)
        first = asyncio.create_task(homing.client.post(TTS, json=speech, headers=key("one")))
        await sender.began.wait()

        again = asyncio.create_task(homing.client.post(TTS, json=speech, headers=key("one")))
        await asyncio.wait([again], timeout=20)
        sender.gate.set()

        assert (await again).status_code == 503
        assert outcome(await first)[1] == 5001


async def test_lost_answer_is_unknown_and_never_sent_again(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(faults={"helper_reply_lost": 1.0}, hang_for=0.0)
    async with served(tmp_path, sandbox, api_keys=KEYS) as homing:
        lost = await homing.client.post(TTS, json=SPEECH, headers=key("one"))
        sandbox.set_faults({"helper_reply_lost": 0.0})
        again = await homing.client.post(TTS, json=SPEECH, headers=key("one"))

        assert outcome(lost) == outcome(again)
        assert outcome(lost)[:2] == (500, 5000)
        assert "unknown" in lost.json()["message"]
        assert charges(sandbox) == [TTS]
        stats = (await homing.client.get("/v1/stats", headers=SEES_ALL)).json()
        assert [(alarm["kind"], alarm["count"]) for alarm in stats["alarms"]] == [("unanswered_call", 1)]
        shown = (await homing.client.get("/v1/helper-calls?state=unknown", headers=SEES_ALL)).json()["calls"]
        assert [(call["call"], call["client"]) for call in shown] == [(f"POST {TTS}", STUDIO.name)]
        assert (await homing.client.get("/v1/helper-calls")).status_code == 403
        # A new key is a new call.
        assert (await homing.client.post(TTS, json=SPEECH, headers=key("two"))).status_code == 200


async def test_lost_free_call_is_reported_and_not_recorded(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(faults={"helper_reply_lost": 1.0}, hang_for=0.0)
    async with served(tmp_path, sandbox, api_keys=KEYS) as homing:
        posted = await homing.client.post(f"{SELECTION}/init-selection", json=VIDEO)
        read = await homing.client.get("/v1/general/presets-voices")

        assert outcome(posted)[:2] == (500, 5000)
        assert outcome(read)[:2] == (503, 5001)
        assert (await homing.client.get("/v1/helper-calls", headers=SEES_ALL)).json()["calls"] == []
        assert sandbox.ledger["requests"]["helper"] == 2


async def test_refused_call_frees_its_key(homing: Served, kling_sandbox: RunningSandbox) -> None:
    refused = await homing.client.post(TTS, json=SPEECH | {"voice_id": PRESET_VOICES[0]}, headers=key("one"))

    again = await homing.client.post(TTS, json=SPEECH, headers=key("one"))

    assert outcome(refused) == (400, 1201, "Voice id not found")
    assert again.status_code == 200
    assert charges(kling_sandbox) == [TTS]


async def test_unreachable_provider_frees_the_key(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, kling_base_url="http://127.0.0.1:9") as homing:
        replies = [await homing.client.post(TTS, json=SPEECH, headers=key("one")) for _ in range(2)]
        records = await homing.tracker.store.helper_calls.page(client=None, state=None, before=None, limit=9)

    assert [outcome(reply)[:2] for reply in replies] == [(503, 5001)] * 2
    assert {record.state for record in records} == {HelperState.NOT_SENT}


async def test_refused_credential_is_not_the_clients(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, api_keys=KEYS, kling_api_key="a-wrong-provider-key") as homing:
        replies = [
            await homing.client.post(TTS, json=SPEECH),
            await homing.client.get("/v1/general/presets-voices"),
        ]

        assert [outcome(reply)[:2] for reply in replies] == [(503, 5001)] * 2
        assert all("credential refused" in reply.text and "a-wrong" not in reply.text for reply in replies)
        stats = (await homing.client.get("/v1/stats", headers=SEES_ALL)).json()
        assert "credential" in {alarm["kind"] for alarm in stats["alarms"]}

        async def is_shown() -> bool:
            return (await homing.client.get(COSTS)).status_code == 503

        await until(is_shown)


async def test_answer_never_shows_the_credential(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    shown = '{"code":0,"message":"ok","data":{"seen":"KEY","url":"https://cdn.example/?t=eyJa.b"}}'

    async def echo(request: Request) -> Answer | None:
        del request
        return Answer(status=200, body=shown.replace("KEY", kling_sandbox.api_key).encode())

    async with provider_proxy(kling_sandbox.base_url) as line:
        line.script = echo
        async with served(tmp_path, kling_sandbox, kling_base_url=line.base_url) as homing:
            data = await done(homing.client, TTS, SPEECH)

    assert data == {"seen": "***", "url": "https://cdn.example/?t=eyJa.b"}


@pytest.mark.parametrize("status", [200, 502])
@pytest.mark.parametrize("answer", [b"<html>", b'{"code":0}', b"", b'{"code":5000,"message":"x"}'])
async def test_unreadable_answer_is_unknown(
    tmp_path: Path, kling_sandbox: RunningSandbox, answer: bytes, status: int
) -> None:
    async def spoil(request: Request) -> Answer | None:
        await request.forward()
        return Answer(status=status, body=answer)

    async with provider_proxy(kling_sandbox.base_url) as line:
        line.script = spoil
        async with served(tmp_path, kling_sandbox, kling_base_url=line.base_url) as homing:
            replies = [await homing.client.post(TTS, json=SPEECH, headers=key("one")) for _ in range(2)]

    assert [outcome(reply)[:2] for reply in replies] == [(500, 5000)] * 2
    assert charges(kling_sandbox) == [TTS]


async def test_session_belongs_to_its_client(homing: Served, kling_sandbox: RunningSandbox) -> None:
    ours = (await done(homing.client, f"{SELECTION}/init-selection", VIDEO))["session_id"]
    faces = (await done(homing.client, FACES, VIDEO))["session_id"]
    requests = kling_sandbox.ledger["requests"]["helper"]

    for session in (ours, faces):
        for step in ("add", "delete", "clear", "preview"):
            path, body = f"{SELECTION}/{step}-selection", {"frame_index": 0, "points": [{"x": 0.5, "y": 0.5}]}
            foreign = await homing.client.post(path, json=body | {"session_id": session}, headers=THEIRS)
            unknown = await homing.client.post(path, json=body | {"session_id": "nobody"}, headers=THEIRS)
            assert outcome(foreign) == outcome(unknown) == (400, 1201, "Session id not found")

    assert kling_sandbox.ledger["requests"]["helper"] == requests
    await done(homing.client, f"{SELECTION}/clear-selection", {"session_id": ours}, **SEES_ALL)


async def test_voice_belongs_to_its_client(homing: Served, kling_sandbox: RunningSandbox) -> None:
    ours = await voice(homing)
    replies = {}
    for its_id in (ours, "nobody"):
        replies[its_id] = [
            outcome(await homing.client.post("/v1/general/delete-voices", json={"voice_id": its_id}, headers=THEIRS)),
            outcome(await homing.client.post(TTS, json=SPEECH | {"voice_id": its_id}, headers=THEIRS)),
        ]

    assert replies[ours] == replies["nobody"] == [(400, 1201, "Voice id not found")] * 2
    assert charges(kling_sandbox) == []
    await done(homing.client, TTS, SPEECH | {"voice_id": ours})
    await done(homing.client, "/v1/general/delete-voices", {"voice_id": ours})
    gone = await homing.client.post("/v1/general/delete-voices", json={"voice_id": ours})
    assert outcome(gone) == (400, 1201, "Voice id not found")


async def forge(homing: Served, sandbox: RunningSandbox, voice_id: str) -> Sequence[Claim]:
    """Let another client claim a voice by a callback for a running task of its own, and return the claims."""
    async with httpx.AsyncClient(base_url=sandbox.base_url, headers=sandbox.headers, trust_env=False) as provider:
        running = await done(provider, VOICES, VOICE)
    expect = {"provider": "kling", "kind": "general/custom-voices"}
    expected = (await homing.client.post("/v1/tasks/expect", json=expect, headers=THEIRS)).json()
    attached = {"provider_task_id": running["task_id"]}
    await homing.client.patch(f"/v1/tasks/{expected['task']['id']}", json=attached, headers=THEIRS)
    forged = {
        "task_id": running["task_id"],
        "task_status": "succeed",
        "task_result": {"voices": [{"voice_id": voice_id}]},
    }
    assert (await homing.client.post(expected["callback_url"], json=forged)).status_code == 200
    return await homing.tracker.store.claims.claims("kling", "default", ObjectRef(ObjectType.VOICE, voice_id))


async def test_forged_claim_gives_and_takes_no_voice(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with served(tmp_path, sandbox, api_keys=KEYS, policy=AMPLE) as homing:
        making = asyncio.create_task(voice(homing))
        await until(lambda: sandbox.ledger["tasks"])
        sandbox.finish(sandbox.ledger["tasks"][0]["id"])
        ours = await making
        claims = [await forge(homing, sandbox, ours), await forge(homing, sandbox, SPEECH["voice_id"])]
        assert [claim.verified for claim in claims[0] if claim.client == OTHER.name] == [False]
        assert [(claim.client, claim.verified) for claim in claims[1]] == [(OTHER.name, False)]

        stolen = await homing.client.post("/v1/general/delete-voices", json={"voice_id": ours}, headers=THEIRS)
        used = await homing.client.post(TTS, json=SPEECH | {"voice_id": ours}, headers=THEIRS)

        assert outcome(stolen) == outcome(used) == (400, 1201, "Voice id not found")
        # A preset voice, which no client has made, stays open to everybody.
        await done(homing.client, TTS, SPEECH)
        await done(homing.client, "/v1/general/delete-voices", {"voice_id": ours})


async def test_create_request_cannot_use_another_clients_objects(homing: Served, kling_sandbox: RunningSandbox) -> None:
    session = (await done(homing.client, FACES, VIDEO))["session_id"]
    spoken = await voice(homing)
    before = len(kling_sandbox.ledger["tasks"])
    bodies = {
        "videos/advanced-lip-sync": REQUESTS["videos/advanced-lip-sync"] | {"session_id": session},
        "videos/text2video": REQUESTS["videos/text2video"] | {"voice_list": [{"voice_id": spoken}]},
    }

    for kind, body in bodies.items():
        at_gateway = await homing.client.post(f"/v1/{kind}", json=body, headers=THEIRS)
        wanted = {"provider": "kling", "kind": kind, "input": body}
        at_tasks = await homing.client.post("/v1/tasks", json=wanted, headers=THEIRS)
        assert outcome(at_gateway) in {(400, 1201, f"{name} id not found") for name in ("Session", "Voice")}
        assert (at_tasks.status_code, at_tasks.json()["detail"]) == (400, at_gateway.json()["message"])
    assert len(kling_sandbox.ledger["tasks"]) == before
    for kind, body in bodies.items():
        await done(homing.client, f"/v1/{kind}", body)
    too_many = {"prompt": "a cat", "x": [{"voice_id": str(number)} for number in range(51)]}
    refused = await homing.client.post("/v1/images/omni-image", json=too_many)
    assert "more than 50" in refused.json()["message"]


async def test_callback_about_an_unknown_task_makes_no_claim(homing: Served) -> None:
    """No query could verify it, and a client can send as many as it likes."""
    expect = {"provider": "kling", "kind": "general/custom-voices", "external_id": "mine"}
    expected = (await homing.client.post("/v1/tasks/expect", json=expect, headers=THEIRS)).json()
    forged = {
        "task_id": "made-up",
        "task_status": "succeed",
        "task_info": {"external_task_id": "mine"},
        "task_result": {"voices": [{"voice_id": "845"}]},
    }
    assert (await homing.client.post(expected["callback_url"], json=forged)).status_code == 200

    assert (await homing.client.get("/v1/tasks/mine", headers=THEIRS)).json()["status"] == "succeeded"
    assert await homing.tracker.store.claims.claims("kling", "default", ObjectRef(ObjectType.VOICE, "845")) == []


async def test_task_adopted_after_retention_gives_no_voice(homing: Served, kling_sandbox: RunningSandbox) -> None:
    ours = await voice(homing)
    [truth] = kling_sandbox.ledger["tasks"]
    later = datetime.now(UTC) + timedelta(days=40)
    deleted = await homing.tracker.store.retention.delete_old(until=later, now=later, after=None, limit=9)
    adopted = await homing.client.get(f"{VOICES}/{truth['id']}", headers=THEIRS)

    stolen = await homing.client.post("/v1/general/delete-voices", json={"voice_id": ours}, headers=THEIRS)

    assert (deleted.tasks, adopted.status_code) == (1, 200)
    assert outcome(stolen) == (400, 1201, "Voice id not found")
    await done(homing.client, TTS, SPEECH | {"voice_id": ours})


async def test_element_task_deletes_need_ownership(homing: Served) -> None:
    frontal = {"frontal_image": "https://files.example/a.png"}
    body = {"element_name": "cat", "element_description": "a cat", "reference_type": "image_refer"}
    path = "/v1/general/advanced-custom-elements"
    task = (await done(homing.client, path, body | {"element_image_list": frontal}))["task_id"]

    async def made() -> bool:
        return bool((await homing.client.get(f"{path}/{task}")).json()["data"]["task_result"])

    await until(made)
    element = (await homing.client.get(f"{path}/{task}")).json()["data"]["task_result"]["elements"][0]["element_id"]
    delete = "/v1/general/delete-advanced-elements"
    stolen = await homing.client.post(delete, json={"element_id": element}, headers=THEIRS)

    assert outcome(stolen) == (400, 1201, "Element id not found")
    assert (await homing.client.get(path, headers=THEIRS)).json()["data"] == []
    await done(homing.client, delete, {"element_id": str(element)})


async def test_element_list_shows_only_own(homing: Served, kling_sandbox: RunningSandbox) -> None:
    ours = (await done(homing.client, ELEMENTS, ELEMENT, **key("one")))["element_id"]
    theirs = (await done(homing.client, ELEMENTS, ELEMENT, **THEIRS))["element_id"]
    assert (await done(homing.client, ELEMENTS, ELEMENT, **key("one")))["element_id"] == ours

    shown = [
        [
            element["element_id"]
            for entry in (await homing.client.get(ELEMENTS, headers=headers)).json()["data"]
            for element in entry["task_result"]["elements"]
        ]
        for headers in ({}, THEIRS, SEES_ALL)
    ]

    assert shown == [[ours], [theirs], [theirs, ours]]
    assert charges(kling_sandbox) == [ELEMENTS] * 2
    stolen = await homing.client.post("/v1/general/delete-elements", json={"element_id": ours}, headers=THEIRS)
    assert outcome(stolen) == (400, 1201, "Element id not found")
    await done(homing.client, "/v1/general/delete-elements", {"element_id": ours})


async def test_costs_are_scrubbed_for_other_keys(homing: Served, kling_sandbox: RunningSandbox) -> None:
    scrubbed = await homing.client.get(COSTS)
    assert kling_sandbox.ledger["requests"]["helper"] == 0
    whole = await homing.client.get("/kling" + COSTS, headers=SEES_ALL)

    assert scrubbed.json()["data"] == {"code": 0, "msg": "success", "resource_pack_subscribe_infos": []}
    assert whole.json()["data"].keys() == scrubbed.json()["data"].keys()
    assert whole.json()["data"]["resource_pack_subscribe_infos"][0]["remaining_quantity"] == 118.0
    assert outcome(await homing.client.get("/account/costs"))[:2] == (400, 1201)


@pytest.mark.parametrize("left", [None, "presets"])
async def test_group_off_is_an_unknown_path(tmp_path: Path, kling_sandbox: RunningSandbox, left: str | None) -> None:
    groups = ("none",) if left is None else (left,)
    async with served(tmp_path, kling_sandbox, gateway_helpers=groups) as homing:
        for helper in HELPERS:
            for prefix in ("", "/kling"):
                reply = await homing.client.request(helper.method, prefix + helper.path, json={})
                if helper.group == left:
                    assert reply.status_code == 200
                else:
                    nowhere = await homing.client.get("/kling/v1/nowhere")
                    assert outcome(reply) == outcome(nowhere)
    assert left is None or left in GROUPS


async def test_helper_calls_take_from_clients_budget(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, api_keys=KEYS, policy=replace(QUICK, client_budget=2)) as homing:
        replies = [await homing.client.post(TTS, json=SPEECH, headers=key(str(n))) for n in range(3)]
        repeat = await homing.client.post(TTS, json=SPEECH, headers=key("0"))
        other = await homing.client.post(TTS, json=SPEECH, headers=THEIRS)

    assert [outcome(reply)[:2] for reply in replies] == [(200, 0), (200, 0), (429, 1302)]
    assert "retry-after" in replies[2].headers
    assert repeat.json()["data"] == replies[0].json()["data"]
    assert other.status_code == 200
    assert len(charges(kling_sandbox)) == 3
