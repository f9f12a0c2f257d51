"""A client sees and changes only its own tasks, for every ID that it sends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.builders import OMNI
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling, Made
from tests.support.homing_server import CREATE, KIND, SILENT, HomingServer, homing_server
from tests.support.kling_examples import HELPER_REQUESTS, REQUESTS
from tracker.app import create_tracker, reconciler_of
from tracker.model.task import ClientIdentity, Status, Task
from tracker.model.untrusted import JsonObject
from tracker.providers.base import Account, Call, Reply
from tracker.rules.identity import WITHDRAWN
from tracker.service.tracker import Tracker
from tracker.settings import Settings

SandboxFactory = Callable[..., RunningSandbox]
KEYS = "victim:made-up-victim-key,thief:made-up-thief-key"
EXPECT = {"provider": "kling", "kind": KIND}
CREATE_BODY: dict[str, Any] = EXPECT | {"input": {"prompt": "mine", "model_name": "kling-v3-omni"}}
VICTIM, THIEF, OPERATOR = (
    ClientIdentity(name="victim"),
    ClientIdentity(name="thief"),
    ClientIdentity(name="operator", sees_all=True),
)

Request = Callable[[httpx.AsyncClient, str], Awaitable[list[httpx.Response]]]


def named(method: str, path: str, **body: Any) -> Request:
    """Make a request with the ID of another client in its path, or in its body in place of ``ID``."""

    async def send(thief: httpx.AsyncClient, ref: str) -> list[httpx.Response]:
        body_with_id = {name: ref if value == "ID" else value for name, value in body.items()}
        return [await thief.request(method, path.format(ref=ref), json=body_with_id or None)]

    return send


def on_own_task(method: str, path: str, **body: Any) -> Request:
    """Make a request about the thief's own task with another client's ID in its body, and poll that task."""

    async def send(thief: httpx.AsyncClient, ref: str) -> list[httpx.Response]:
        own = (await thief.post("/v1/tasks/expect", json=EXPECT)).json()["task"]["id"]
        done = await named(method, path.format(ref=own), **body)(thief, ref)
        return [*done, await thief.post(f"/v1/tasks/{own}/poll"), await thief.get(f"/v1/tasks/{own}/history")]

    return send


async def expect_and_poll(thief: httpx.AsyncClient, ref: str) -> list[httpx.Response]:
    expected = await thief.post("/v1/tasks/expect", json=EXPECT | {"external_id": ref})
    if expected.status_code != httpx.codes.CREATED:
        return [expected]
    own = expected.json()["task"]["id"]
    return [expected, await thief.post(f"/v1/tasks/{own}/poll"), await thief.get(f"/v1/tasks/{own}/history")]


async def call_back(thief: httpx.AsyncClient, ref: str) -> list[httpx.Response]:
    """Post a callback about another client's task to the callback URL of the thief's own task."""
    expected = (await thief.post("/v1/tasks/expect", json=EXPECT)).json()
    own, body = expected["task"]["id"], {"task_id": ref, "task_status": "processing"}
    posted = await thief.post(expected["callback_url"], json=body)
    return [posted, await thief.post(f"/v1/tasks/{own}/poll"), await thief.get(f"/v1/tasks/{own}/history")]


VERBS: dict[str, Request] = {
    "get": named("GET", "/v1/tasks/{ref}"),
    "long poll": named("GET", "/v1/tasks/{ref}?wait=1"),
    "history": named("GET", "/v1/tasks/{ref}/history"),
    "list": named("GET", "/v1/tasks?limit=200"),
    "list of the client": named("GET", "/v1/tasks?client=victim"),
    "events": named("GET", "/v1/events?limit=200&after=0"),
    "poll": named("POST", "/v1/tasks/{ref}/poll"),
    "reject": named("POST", "/v1/tasks/{ref}/resolve", status="rejected"),
    "decide": named("POST", "/v1/tasks/{ref}/resolve", status="failed"),
    "resolve by its id": named("POST", "/v1/tasks/{ref}/resolve", provider_task_id="ID"),
    "resolve with its id": on_own_task("POST", "/v1/tasks/{ref}/resolve", provider_task_id="ID"),
    "attach to it": named("PATCH", "/v1/tasks/{ref}", provider_task_id="another"),
    "attach its id": on_own_task("PATCH", "/v1/tasks/{ref}", provider_task_id="ID"),
    "adopt": named("POST", "/v1/tasks/adopt", provider_task_id="ID", **EXPECT),
    "adopt as": named("POST", "/v1/tasks/adopt", provider_task_id="ID", external_id="mine", **EXPECT),
    "expect": expect_and_poll,
    "callback": call_back,
    "list by metadata": named("GET", "/v1/tasks?metadata[order]=order-9"),
    "list by model": named("GET", "/v1/tasks?model=kling-v3-omni"),
    "create as": named("POST", "/v1/tasks", external_id="ID", **CREATE_BODY),
    "create for": named("POST", "/v1/tasks", metadata={"order": "order-9"}, **CREATE_BODY),
    "submit as": named("POST", CREATE, prompt="mine", external_task_id="ID"),
    "gateway get": named("GET", f"{CREATE}/{{ref}}"),
    "gateway list": named("GET", f"{CREATE}?pageSize=500"),
    "gateway batch": named("GET", "/kling/tasks?task_ids={ref}"),
    "gateway batch by external id": named("GET", "/kling/tasks?external_task_ids={ref}"),
}


LISTS = {"list", "list by metadata", "list by model", "events", "gateway list"}
SELECTION = "/v1/videos/multi-elements"
POINT = {"frame_index": 0, "points": [{"x": 0.5, "y": 0.5}]}
# Each helper call that names an object: its path, the object that it names, and the rest of its body.
HELPER_VERBS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "speak": ("/v1/audio/tts", "voice_id", {"text": "mine"}),
    "delete voice": ("/v1/general/delete-voices", "voice_id", {}),
    "delete element": ("/v1/general/delete-advanced-elements", "element_id", {}),
    "delete old element": ("/v1/general/delete-elements", "element_id", {}),
    "add selection": (f"{SELECTION}/add-selection", "session_id", POINT),
    "delete selection": (f"{SELECTION}/delete-selection", "session_id", POINT),
    "clear selection": (f"{SELECTION}/clear-selection", "session_id", {}),
    "preview selection": (f"{SELECTION}/preview-selection", "session_id", {}),
}
OLD_ELEMENTS = "/v1/general/custom-elements"


async def test_request_cannot_reach_another_clients_task(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    # A late callback about the task would change it too.
    sandbox = kling_sandbox_factory(held=True, callbacks=False)
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT, api_keys=KEYS, loops=False) as homing:
        body = {
            "input": {"prompt": "a secret prompt", "model_name": "kling-v3-omni"},
            "external_id": "order-9",
            "metadata": {"order": "order-9", "name": "a secret name"},
        }
        ours = (await homing.client.post("/v1/tasks", json=EXPECT | body)).json()["id"]
        theirs = (await homing.client.get(f"/v1/tasks/{ours}")).json()["provider_task_id"]
        for ended in (False, True):
            if ended:
                sandbox.finish(theirs)
                await homing.client.post(f"/v1/tasks/{ours}/poll")
            before = await shown_state(homing, ours)
            secrets = {
                "a secret prompt",
                "a secret name",
                ours,
                theirs,
                *(asset["url"] for asset in before["result"]["assets"]),
            }

            leaks = await leaking(homing, [ours, theirs, "order-9"], secrets)

            assert leaks == []
            assert await shown_state(homing, ours) == before


async def test_helper_calls_hide_another_clients_objects(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """Another client's voice, element or session gets the answer of an unknown one, in each call."""
    sandbox = kling_sandbox_factory(held=True, callbacks=False)
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT, api_keys=KEYS, loops=False) as homing:
        objects = await made_objects(homing, sandbox)
        before = sandbox.ledger["charges"]
        key = {"authorization": "Bearer made-up-thief-key"}
        async with httpx.AsyncClient(base_url=homing.url, headers=key, trust_env=False, timeout=30) as thief:
            for verb, (path, name, rest) in HELPER_VERBS.items():
                for its_id in objects[name]:
                    foreign, unknown = [
                        await thief.post(path, json=rest | {name: each}) for each in (its_id, "8450000000000")
                    ]
                    assert answer_of(foreign) == answer_of(unknown), verb
                    assert foreign.status_code == 400, verb
            listed = [await thief.get(f"{OLD_ELEMENTS}?pageSize=500"), await thief.get("/v1/general/custom-voices")]
        assert [reply.json()["data"] for reply in listed] == [[], []]
        assert sandbox.ledger["charges"] == before
        for its_id in objects["voice_id"]:
            owned = await homing.client.post("/v1/general/delete-voices", json={"voice_id": its_id})
            assert owned.status_code == 200


async def made_objects(homing: HomingServer, sandbox: RunningSandbox) -> dict[str, list[str]]:
    """Let the victim make a voice, elements and sessions. Return their IDs by the fields that name them."""

    async def done(path: str, body: JsonObject) -> Any:
        reply = await homing.client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    found: dict[str, list[str]] = {}
    for kind, name in (("general/custom-voices", "voice"), ("general/advanced-custom-elements", "element")):
        task = (await done(f"/v1/{kind}", REQUESTS[kind]))["task_id"]
        sandbox.finish((await homing.client.get(f"/v1/tasks/{task}")).json()["provider_task_id"])
        await homing.client.post(f"/v1/tasks/{task}/poll")
        [made] = (await homing.client.get(f"/v1/{kind}/{task}")).json()["data"]["task_result"][f"{name}s"]
        found[f"{name}_id"] = [str(made[f"{name}_id"])]
    old = await done(OLD_ELEMENTS, HELPER_REQUESTS["post_v1_general_custom_elements"])
    found["element_id"].append(str(old["element_id"]))
    video: JsonObject = {"video_url": "https://victim.example/a.mp4"}
    paths = ("/v1/videos/identify-face", f"{SELECTION}/init-selection")
    found["session_id"] = [str((await done(path, video))["session_id"]) for path in paths]
    return found


def answer_of(reply: httpx.Response) -> tuple[int, JsonObject]:
    """Return all that a client sees of an answer, except the ID of its own request."""
    body = dict(reply.json())
    assert body.pop("request_id") == reply.headers["x-request-id"]
    return reply.status_code, body


async def shown_state(homing: HomingServer, ref: str) -> dict[str, Any]:
    """Return the task as the victim sees it, without the poll count."""
    shown: dict[str, Any] = (await homing.client.get(f"/v1/tasks/{ref}")).json()
    return {name: value for name, value in shown.items() if name not in {"poll_count", "polled_at", "next_poll_at"}}


async def leaking(homing: HomingServer, refs: list[str], secrets: set[str]) -> list[str]:
    """Send every request with every ID as the thief. Return the requests that reveal the victim's task."""
    leaks = []
    key = {"authorization": "Bearer made-up-thief-key"}
    async with httpx.AsyncClient(base_url=homing.url, headers=key, trust_env=False, timeout=30) as thief:
        for verb, send in VERBS.items():
            for ref in refs:
                shown = "".join(reply.text for reply in await send(thief, ref))
                # A list also shows the external IDs that the thief gave its own tasks.
                hidden = secrets.difference(refs if verb in LISTS else {ref})
                leaks += [f"{verb} {ref}: {secret}" for secret in hidden if secret in shown]
        homing.clock.ahead += timedelta(minutes=1)
        await homing.reconciler.run_once()
        left = (await thief.get("/v1/tasks?limit=200")).json()["tasks"]
        leaks += [f"{task['id']} {task['status']}" for task in left if task["result"]["assets"] or task["price"]]
    return leaks


# ---- the provider says which row the task belongs to


@dataclass(slots=True, kw_only=True)
class WatchedKling(FakeKling):
    """A provider with a hook between the creation of a task and the answer to its create request."""

    meanwhile: Callable[[Made], Awaitable[None]] | None = None

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        reply = await FakeKling.send(self, account, call, now=now, within=within)
        if call.method == "POST" and self.meanwhile is not None:
            await self.meanwhile(self.ledger[-1])
        return reply


@asynccontextmanager
async def two_clients(folder: Path, kling: FakeKling) -> AsyncIterator[tuple[Tracker, Task]]:
    """Run a tracker in which the thief expects its own task."""
    chosen = Settings(
        database_url=sqlite_url(folder),
        kling_base_url="https://kling.example",
        kling_api_key="made-up-key",
    )
    async with create_tracker(chosen, clock=kling.clock, monotonic=kling.clock.monotonic, transport=kling) as tracker:
        yield tracker, (await tracker.expect(THIEF, provider="kling", kind=OMNI)).task


async def submitted(tracker: Tracker) -> Task:
    return await tracker.submit(VICTIM, "kling", tracker.order("kling", OMNI, {"prompt": "a secret prompt"}))


async def mismatches(tracker: Tracker) -> list[str | None]:
    stats = await tracker.stats(OPERATOR)
    return [alarm.task_id for alarm in stats.alarms if alarm.kind.value == "mismatch"]


@pytest.mark.parametrize("echoes", [True, False])
async def test_predicted_id_goes_to_the_submitting_task(tmp_path: Path, *, echoes: bool) -> None:
    kling = FakeKling(clock=Clock(), echoes=echoes)
    async with two_clients(tmp_path, kling) as (tracker, thief):
        await tracker.attach(THIEF, thief.id, "kling-1")

        ours = await submitted(tracker)
        kling.clock.advance(timedelta(minutes=5))
        await reconciler_of(tracker).run_once()

        after = await tracker.get(THIEF, thief.id)
        assert ours.provider_task_id == "kling-1"
        assert (after.provider_task_id, after.candidate_id, after.status) == (None, None, Status.PENDING)
        assert await mismatches(tracker) == [thief.id]


async def test_early_confirmed_id_is_withdrawn_by_reply(tmp_path: Path) -> None:
    """A provider without external IDs confirms a task to any client. The reply to its create request outranks that."""
    kling = WatchedKling(clock=Clock(), echoes=False)
    async with two_clients(tmp_path, kling) as (tracker, thief):
        stolen: list[Task] = []

        async def steal(made: Made) -> None:
            stolen.append(await tracker.attach(THIEF, thief.id, made.id))

        kling.meanwhile = steal

        ours = await submitted(tracker)

        after, history = await tracker.history(THIEF, thief.id)
        assert stolen[0].provider_task_id == ours.provider_task_id == "kling-1"
        assert (after.provider_task_id, after.status, after.facts, after.reason) == (
            None,
            Status.PENDING,
            {},
            WITHDRAWN,
        )
        assert history[-1].why == WITHDRAWN
        assert await mismatches(tracker) == [thief.id]
        kling.ledger[-1].status = "succeed"
        await tracker.poll(VICTIM, ours.id)
        assert (await tracker.get(VICTIM, ours.id)).status is Status.SUCCEEDED


@pytest.mark.parametrize(("echoes", "looks_up"), [(True, True), (False, True), (False, False)])
async def test_lost_reply_is_recovered_despite_taken_id(tmp_path: Path, *, echoes: bool, looks_up: bool) -> None:
    kling = FakeKling(clock=Clock(), echoes=echoes, looks_up=looks_up, plan=["reply lost"])
    async with two_clients(tmp_path, kling) as (tracker, thief):
        ours = await submitted(tracker)
        await tracker.attach(THIEF, thief.id, "kling-1")
        kling.ledger[-1].status = "succeed"

        kling.clock.advance(timedelta(minutes=1))
        await reconciler_of(tracker).run_once()

        recovered, after = await tracker.get(VICTIM, ours.id), await tracker.get(THIEF, thief.id)
        held = recovered.provider_task_id, after.provider_task_id
        # Without external IDs, the first row whose ID the provider confirms keeps it.
        assert held == (("kling-1", None) if looks_up else (None, "kling-1"))
        assert recovered.status is (Status.SUCCEEDED if looks_up else Status.PENDING)
