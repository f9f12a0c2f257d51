"""The gateway in Kling's shape over a real tracker."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, MutableMapping
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.support.api_harness import ApiHarness, api_harness, closed_client
from tests.support.api_keys import LOCAL_ACCESS, LOCAL_HEADERS
from tests.support.builders import NOW, PICTURE, a_task
from tests.support.conditions import until
from tests.support.published_events import a_success
from tracker.api import Access, Limits, create_api
from tracker.api.gateway import PREFIXES
from tracker.api.gateway_errors import ENVELOPE
from tracker.api.http.capacity import BODIES_FULL
from tracker.errors import (
    Conflict,
    CredentialMissing,
    CredentialRefused,
    HomingError,
    Overloaded,
    ProviderUnavailable,
    Refused,
    StoreUnavailable,
)
from tracker.model.keys import ClientKey, NamedKey
from tracker.model.task import Status
from tracker.providers.kling_kinds import KINDS

OMNI_KIND = "images/omni-image"
OMNI = f"/v1/{OMNI_KIND}"
KEYED = Access(
    api_keys=(NamedKey(name="studio", key="made-up-studio-key"),),
    client_keys=(ClientKey(access="made-up-access", secret="made-up-secret-of-at-least-32-bytes!"),),
)
SEED = {
    "model_name": "kling-v1",
    "prompt": "string",
    "negative_prompt": "string",
    "image": "string",
    "image_fidelity": 0,
    "n": 1,
    "aspect_ratio": "16:9",
    "callback_url": "https://client.example.com/done",
}
OFFICIAL = {
    "model_name": "kling-v3-omni",
    "prompt": "<<<image_1>>> in the rain",
    "image_list": [{"image": "https://pictures.example.com/1.png"}],
    "element_list": [{"element_id": 829836802793406551}],
    "resolution": "4k",
    "result_type": "series",
    "series_amount": "auto",
    "aspect_ratio": "auto",
    "watermark_info": {"enabled": True},
    "external_task_id": "mine-1",
}
prefixed = pytest.mark.parametrize("prefix", PREFIXES)


def refusal(reply: httpx.Response, status: int, code: int) -> str:
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"code", "message", "request_id"}
    assert body["code"] == code
    assert body["request_id"] == reply.headers["x-request-id"]
    return str(body["message"])


@prefixed
@pytest.mark.parametrize("body", [SEED, OFFICIAL], ids=["seed", "official"])
async def test_create_reply_has_seed_envelope_and_task_id(api: ApiHarness, prefix: str, body: dict[str, Any]) -> None:
    async with api.client() as client:
        reply = await client.post(prefix + OMNI, json=body)

    assert reply.status_code == 200
    envelope = reply.json()
    assert (envelope["code"], envelope["request_id"]) == (0, reply.headers["x-request-id"])
    data = envelope["data"]
    (task,) = await api.tasks()
    assert (data["task_id"], data["task_status"]) == (task.id, "submitted")
    assert data["created_at"] == data["updated_at"] == int(task.created_at.timestamp() * 1000)
    unsent = {"callback_url", "external_task_id"}
    assert api.provider.creates == [{name: v for name, v in body.items() if name not in unsent}]
    assert (task.external_id, task.client_callback_url) == (body.get("external_task_id"), body.get("callback_url"))


async def test_two_replies_have_two_request_ids(api: ApiHarness) -> None:
    async with api.client() as client:
        ids = {(await client.get(OMNI)).json()["request_id"] for _ in range(5)}
    assert len(ids) == 5


async def test_tracker_records_answer_after_it_is_sent(api: ApiHarness) -> None:
    async with api.client() as client:
        reply = await client.post(OMNI, json=SEED)

    (task,) = await api.tasks()
    assert (task.id, task.answered_at) == (reply.json()["data"]["task_id"], NOW)


async def the_submit_ended() -> None:
    """Wait until the tracker's submit has ended. Return before the code that awaits it continues."""
    (submit,) = [task for task in asyncio.all_tasks() if "Tracker.submit" in repr(task.get_coro())]
    while not submit.done():  # noqa: ASYNC110 - to wait for the task itself would be one step too long
        await asyncio.sleep(0)


@pytest.mark.parametrize("left_at_the_end", [False, True])
async def test_submission_continues_after_client_disconnects(
    api: ApiHarness,
    left_at_the_end: bool,  # noqa: FBT001 - a parameter
) -> None:
    gate = api.provider.gate = asyncio.Event()
    raw = json.dumps(SEED).encode()
    messages = iter([{"type": "http.request", "body": raw, "more_body": False}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is not None:
            return message
        if left_at_the_end:
            gate.set()
            await the_submit_ended()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    key = (b"authorization", LOCAL_HEADERS["authorization"].encode())
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), key]
    scope = {"type": "http", "method": "POST", "path": OMNI, "raw_path": OMNI.encode(), "query_string": b""}
    app = create_api(api.tracker, LOCAL_ACCESS)
    await app(scope | {"headers": headers, "client": ("127.0.0.1", 5), "root_path": ""}, receive, send)
    gate.set()
    await until(lambda: bool(api.provider.ledger))

    (task,) = await api.tasks()
    assert (sent[0]["status"], task.answered_at) == (499, None)
    async with api.client() as client:
        again = await client.post(OMNI, json=SEED)
    assert (again.json()["data"]["task_id"], len(api.provider.creates)) == (task.id, 1)


async def test_idempotency_key_is_passed_on(api: ApiHarness) -> None:
    async with api.client() as client:
        await client.post(OMNI, json=SEED, headers={"idempotency-key": "once"})
        refusal(await client.post(OMNI, json=SEED, headers={"idempotency-key": "x" * 201}), 400, 1201)
        refusal(await client.post(OMNI, json=SEED, headers={"idempotency-key": ""}), 400, 1201)
        twice = [("idempotency-key", "once"), ("idempotency-key", "again")]
        refusal(await client.post(OMNI, json=SEED, headers=twice), 400, 1201)

    assert [task.idempotency_key for task in await api.tasks()] == ["once"]


async def test_tags_are_read_from_header(api: ApiHarness) -> None:
    sent: list[tuple[list[tuple[str, str]], tuple[str, ...]]] = [
        ([], ()),
        ([("homing-tags", "")], ()),
        ([("homing-tags", "spring, red ,")], ("spring", "red")),
        ([("homing-tags", "spring"), ("homing-tags", "red")], ("spring", "red")),
        ([("homing-tags", "fr%C3%BChling,a%2Cb,100%25")], ("frühling", "a,b", "100%")),
    ]

    async with api.client() as client:
        for headers, tags in sent:
            ref = (await client.post(OMNI, json=SEED, headers=headers)).json()["data"]["task_id"]
            assert (await client.get(f"/v1/tasks/{ref}")).json()["tags"] == list(tags)


@pytest.mark.parametrize("header", ["%FF", "a" * 8193])
async def test_unusable_tags_are_refused_before_sending(header: str) -> None:
    async with closed_client() as client:
        refusal(await client.post(OMNI, json=SEED, headers={"homing-tags": header}), 400, 1201)


@prefixed
@pytest.mark.parametrize("ref", ["%2e", "%2E%2e"])
async def test_dots_are_not_an_id(prefix: str, ref: str) -> None:
    async with closed_client() as client:
        refusal(await client.get(f"{prefix}{OMNI}/{ref}"), 400, 1201)


@pytest.mark.parametrize(
    ("error", "status", "code", "message", "retry"),
    [
        (Conflict("External_task_id mine-1 already exists"), 400, 1201, "External_task_id mine-1 already exists", None),
        (Refused("risk control", http_status=400, code=1301, task_id="hm1"), 400, 1301, "risk control", None),
        (Refused("no money", http_status=429, code=1102, task_id="hm1"), 429, 1102, "no money", None),
        (
            Refused("slots", http_status=429, code=1303, task_id="hm1", retry_after=timedelta(seconds=2)),
            429,
            1303,
            "slots",
            "2",
        ),
        (ProviderUnavailable("nothing was created"), 503, 5001, "nothing was created", "5"),
        (CredentialMissing("credential missing: set it"), 503, 5001, "credential missing: set it", "5"),
        (StoreUnavailable("the database is locked"), 503, 5001, "the database is locked", "5"),
        (Overloaded("too much", retry_after=timedelta(seconds=9)), 503, 5001, "too much", "9"),
        (HomingError("odd"), 500, 5000, "odd", None),
    ],
)
def test_error_has_provider_code(error: HomingError, status: int, code: int, message: str, retry: str | None) -> None:
    answer = ENVELOPE.refuse(error, "made-up-id")

    assert (answer.status_code, answer.media_type) == (status, "application/json")
    assert json.loads(bytes(answer.body)) == {"code": code, "message": message, "request_id": "made-up-id"}
    assert answer.headers.get("retry-after") == retry


async def test_submission_error_has_provider_code(api: ApiHarness) -> None:
    api.provider.plan = ["refused"]

    async with api.client() as client:
        refusal(await client.post(OMNI, json=SEED), 400, 1201)
        assert (await client.post(OMNI, json=OFFICIAL)).status_code == 200
        changed = await client.post(OMNI, json=OFFICIAL | {"prompt": "a dog"})
    async with closed_client() as client:
        closed = await client.post(OMNI, json=SEED)

    assert refusal(changed, 400, 1201) == "External_task_id mine-1 already exists"
    assert refusal(closed, 503, 5001) == "the recorder is not running"
    assert "retry-after" in closed.headers


async def test_submission_without_credential_is_refused(tmp_path: Path) -> None:
    async with api_harness(tmp_path, kling_api_key=None) as api, api.client() as client:
        reply = await client.post(OMNI, json=SEED)

    assert "credential missing" in refusal(reply, 503, 5001)
    assert api.provider.calls == []


def test_operator_credential_is_never_shown_to_clients() -> None:
    error = CredentialRefused("made-up words of the provider about made-up-provider-key")

    answer = ENVELOPE.refuse(error, "made-up-id")

    message = json.loads(bytes(answer.body))["message"]
    assert "credential refused" in message
    assert "made-up" not in message
    assert "retry-after" in answer.headers


async def test_unexpected_error_is_5000_without_details(api: ApiHarness, caplog: pytest.LogCaptureFixture) -> None:
    api.provider.always = RuntimeError("made-up-secret")

    async with api.client() as client:
        with caplog.at_level(logging.DEBUG):
            reply = await client.get(f"{OMNI}/8001")

    refusal(reply, 500, 5000)
    assert "made-up-secret" not in reply.text + caplog.text


def a_token(**changes: Any) -> str:
    claims = {"iss": "made-up-access", "exp": NOW + timedelta(minutes=30), "nbf": NOW - timedelta(seconds=5)}
    return jwt.encode(claims | changes, "made-up-secret-of-at-least-32-bytes!", algorithm="HS256")


@prefixed
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, 1001),
        ("", 1001),
        ("Bearer wrong", 1002),
        (f"Bearer {a_token(iss='nobody')}", 1002),
        (f"Bearer {a_token(nbf=NOW + timedelta(hours=1))}", 1003),
        (f"Bearer {a_token(exp=NOW - timedelta(hours=1))}", 1004),
    ],
)
async def test_invalid_key_has_provider_code(prefix: str, authorization: str | None, code: int) -> None:
    headers = {"authorization": authorization} if authorization is not None else {}
    async with closed_client(KEYED, headers=headers, anonymous=True) as client:
        refusal(await client.post(prefix + OMNI, json=SEED), 401, code)
        refusal(await client.get(prefix + OMNI), 401, code)
        refusal(await client.get(f"{prefix}/tasks?task_ids=a"), 401, code)


@pytest.mark.parametrize(
    ("key", "client_name"), [("made-up-studio-key", "studio"), (a_token(), "made-up-access")], ids=["key", "token"]
)
async def test_key_or_official_token_submits_as_its_client(api: ApiHarness, key: str, client_name: str) -> None:
    async with api.client(KEYED, headers={"authorization": f"Bearer {key}"}) as client:
        assert (await client.post(OMNI, json=SEED)).status_code == 200
    assert [task.client for task in await api.tasks()] == [client_name]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 5001}, "prompt"),
        ({"prompt": "a", "n": 0}, "n "),
        ({"prompt": "a", "n": 10}, "n "),
        ({"prompt": "a", "n": True}, "n "),
        ({"prompt": "a", "aspect_ratio": "5:4"}, "aspect_ratio"),
        ({"prompt": "a", "negative_prompt": "x" * 2501}, "negative_prompt"),
        ({"prompt": "a", "image": {"url": "https://a.example.com/1.png"}}, "image "),
        ({"prompt": "a", "image_fidelity": 2}, "image_fidelity"),
        ({"prompt": "a", "external_task_id": "x" * 201}, "external_task_id"),
        ({"prompt": "a", "callback_url": "javascript:1"}, "callback_url"),
    ],
)
async def test_field_out_of_bounds_is_1201_and_named(body: dict[str, Any], field: str) -> None:
    async with closed_client() as client:
        assert field in refusal(await client.post(OMNI, json=body), 400, 1201)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"prompt":"\\u0000"}',
        b'{"prompt":"\\udfff"}',
        b'{"prompt":"a","n":NaN}',
        b'{"prompt":"a","seed":' + b"9" * 40 + b"}",
        b'{"prompt":"a","x":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 300_000,
        b'{"prompt":"' + b"a" * 300_000,
    ],
)
async def test_body_that_is_not_bounded_json_is_1200(raw: bytes) -> None:
    async with closed_client() as client:
        reply = await client.post(OMNI, content=raw, headers={"content-type": "application/json"})
    refusal(reply, 400, 1200)


async def test_body_without_json_content_type_is_415() -> None:
    async with closed_client() as client:
        refusal(await client.post(OMNI, content=b'{"prompt":"a"}', headers={"content-type": "text/plain"}), 415, 1200)


async def test_ten_base64_images_fit_and_limit_is_settable(api: ApiHarness) -> None:
    body = {"prompt": "a", "image_list": [{"image": "A" * 3_000_000} for _ in range(10)]}

    async with api.client() as client:
        assert (await client.post(OMNI, json=body)).status_code == 200
    async with closed_client(limits=Limits(gateway_body=1_000_000)) as client:
        refusal(await client.post(OMNI, json=body), 413, 1200)

    (task,) = await api.tasks()
    assert isinstance(task.request["image_list"], list)
    assert len(json.dumps(task.request["image_list"])) < 2000
    assert api.provider.creates == [body]


async def test_large_bodies_beyond_capacity_are_shed() -> None:
    async with closed_client(limits=Limits(body_capacity=1000)) as client:
        reply = await client.post(OMNI, json={"prompt": "a" * 2000})
    assert refusal(reply, 503, 5001) == BODIES_FULL
    assert "retry-after" in reply.headers


async def test_dripping_body_is_408_and_closes_connection() -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b'{"prompt":'
        await asyncio.Event().wait()

    async with closed_client(limits=Limits(gateway_body_time=timedelta(milliseconds=50))) as client:
        reply = await client.post(OMNI, content=drip(), headers={"content-type": "application/json"})
    refusal(reply, 408, 1200)
    assert reply.headers["connection"] == "close"


async def test_finished_task_has_legacy_shape_under_each_id(api: ApiHarness) -> None:
    task = a_success(external_id="mine/1")
    await api.add(task)

    async with api.client() as client:
        answers = [
            (await client.get(f"{prefix}{OMNI}/{ref}")).json()["data"]
            for ref in (task.id, task.provider_task_id, "mine%2F1")
            for prefix in PREFIXES
        ]

    data = answers[0]
    assert answers == [data] * 6
    assert (data["task_id"], data["task_status"]) == (task.id, "succeed")
    assert data["task_result"]["images"] == [{"index": 0, "url": PICTURE.url}]
    assert data["task_info"] == {"external_task_id": "mine/1"}
    assert data["final_unit_deduction"] == "8"
    assert api.provider.calls == []


async def test_unknown_id_is_looked_up_once_and_adopted(api: ApiHarness) -> None:
    asked = {"/kling": "8000000007", "": "8000000008"}
    for task_id in asked.values():
        api.provider.add(task_id, external_id=f"theirs-{task_id}", status="succeed")

    async with api.client() as client:
        for prefix, task_id in [*asked.items()] * 2:
            assert (await client.get(f"{prefix}{OMNI}/{task_id}")).json()["data"]["task_status"] == "succeed"

    assert api.provider.queried == [*asked.values()]


async def test_id_unknown_to_provider_has_its_live_answer(api: ApiHarness) -> None:
    async with api.client() as client:
        for ref, meant in (("unknown", "unknown"), ("a%2Fb", "a/b"), ("b%C3%A4ume", "bäume")):
            message = refusal(await client.get(f"{OMNI}/{ref}"), 400, 1201)
            assert message == f"Task not found by id/external id: {meant}"


@pytest.mark.parametrize("ref", ["%00", "%0A", "x" * 201, "%E2%80%AE"])
async def test_impossible_id_is_not_looked_up(ref: str) -> None:
    async with closed_client() as client:
        refusal(await client.get(f"{OMNI}/{ref}"), 400, 1201)


async def test_task_of_another_kind_is_not_found(api: ApiHarness) -> None:
    task = a_task(kind="videos/text2video")
    await api.add(task)

    async with api.client() as client:
        refusal(await client.get(f"{OMNI}/{task.id}"), 400, 1201)
        assert (await client.get(OMNI)).json()["data"] == []


async def test_list_is_paged_by_number_newest_first(api: ApiHarness) -> None:
    tasks = [a_task(number) for number in range(1, 40)]
    await api.add(*tasks, a_task(99, status=Status.REJECTED))
    newest = [task.id for task in reversed(tasks)]

    async def page(prefix: str, query: str) -> list[str]:
        return [task["task_id"] for task in (await client.get(f"{prefix}{OMNI}{query}")).json()["data"]]

    async with api.client() as client:
        for prefix in PREFIXES:
            assert await page(prefix, "") == newest[:30]
            assert await page(prefix, "?pageNum=2") == newest[30:]
            assert await page(prefix, "?pageNum=2&pageSize=7") == newest[7:14]
            assert await page(prefix, "?pageNum=1000&pageSize=500") == []


@pytest.mark.parametrize("query", ["pageNum=0", "pageNum=1001", "pageSize=0", "pageSize=501", "pageSize=x"])
async def test_page_out_of_bounds_is_1201(query: str) -> None:
    async with closed_client() as client:
        assert query.partition("=")[0] in refusal(await client.get(f"{OMNI}?{query}"), 400, 1201)


async def test_get_with_unknown_query_names_ignores_them(api: ApiHarness) -> None:
    task = a_success()
    await api.add(task)

    async with api.client() as client:
        for path in (f"{OMNI}?page=2&page=3", f"{OMNI}/{task.id}?_=17", f"/tasks?task_ids={task.id}&trace=1"):
            assert (await client.get(path)).status_code == 200
        assert "trace" in refusal(await client.post(f"{OMNI}?trace=1", json=SEED), 400, 1201)

    assert api.provider.calls == []


async def test_client_lists_only_its_own_tasks(api: ApiHarness) -> None:
    mine, theirs = a_task(1, client="studio"), a_task(2, client="other")
    await api.add(mine, theirs)

    async with api.client(KEYED, headers={"authorization": "Bearer made-up-studio-key"}) as client:
        listed = (await client.get(OMNI)).json()["data"]
        assert [task["task_id"] for task in listed] == [mine.id]
        refusal(await client.get(f"{OMNI}/{theirs.id}"), 400, 1201)
        both = f"{mine.id},{theirs.id}"
        assert len((await client.get(f"/tasks?task_ids={both}")).json()["data"]) == 1


async def test_batch_has_new_shape_without_unknown_ids(api: ApiHarness) -> None:
    finished, running = a_success(1, external_id="mine-1"), a_task(2)
    await api.add(finished, running)
    api.provider.add("8000000007", status="succeed")
    ids = [running.id, "mine-1", "8000000007", "unknown", "mine-1"]

    async with api.client() as client:
        replies = [
            await client.get(f"{prefix}/tasks", params={field: ",".join(ids)})
            for field in ("task_ids", "external_task_ids")
            for prefix in PREFIXES
        ]

    data = replies[0].json()["data"]
    assert [reply.json()["data"] for reply in replies] == [data] * 4
    assert [task["status"] for task in data] == ["submitted", "succeeded", "succeeded"]
    assert data[0]["id"] == running.id
    assert data[1]["outputs"][0]["url"] == PICTURE.url
    assert sorted(api.provider.queried) == ["8000000007", "unknown"]


async def test_batch_of_slow_provider_is_refused_in_time(api: ApiHarness) -> None:
    api.provider.gate = asyncio.Event()

    async with api.client(limits=Limits(batch_time=timedelta(milliseconds=50))) as client:
        message = refusal(await client.get("/tasks?task_ids=a,b,c,d,e,f"), 503, 5001)

    assert "in time" in message


async def test_batch_of_unknown_tasks_is_empty_list(api: ApiHarness) -> None:
    async with api.client() as client:
        reply = await client.get("/tasks?task_ids=a,b")
    assert (reply.status_code, reply.json()["data"]) == (200, [])


@pytest.mark.parametrize(
    "query",
    [
        "",
        "task_ids=",
        "task_ids=,%20,",
        "task_ids=a&external_task_ids=b",
        "task_ids=a&task_ids=b",
        "task_ids=" + ",".join("abcdefghijklmnopqrstu"),
        "ids=a",
    ],
)
async def test_invalid_batch_query_is_1201(query: str) -> None:
    async with closed_client() as client:
        refusal(await client.get(f"/tasks?{query}"), 400, 1201)


@pytest.mark.parametrize(
    "path",
    [
        "/kling",
        "/kling/",
        "/kling/v1/videos/unheard-of",
        "/kling/v1/tasks",
        "/kling/healthz",
        "/kling/account/costs/a",
        "/v1/images/",
        "/v1/images/omni-image/a/b",
        "/v1/videos/unheard-of/123",
        "/v1/audio/tts/a",
        "/v1/general/presets-voices/a/b",
        "/solutions/a",
        "/tasks/a",
        "/text-to-video/kling-3.0/a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_unknown_path_below_gateway_is_1203_and_names_paths(method: str, path: str) -> None:
    async with closed_client() as client:
        assert "POST /v1/{kind}" in refusal(await client.request(method, path), 404, 1203)


@pytest.mark.parametrize("path", ["/account/x", "/v1/x"])
async def test_unknown_path_elsewhere_is_problem_document(path: str) -> None:
    async with closed_client() as client:
        reply = await client.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


async def test_task_of_each_kind_is_served_at_its_own_path_only(api: ApiHarness) -> None:
    kinds = sorted(name for name, kind in KINDS.items() if kind.is_legacy)
    tasks = {kind: a_success(number, kind=kind) for number, kind in enumerate(kinds, start=1)}
    await api.add(*tasks.values())

    async with api.client() as client:
        for prefix, (kind, task) in product(PREFIXES, tasks.items()):
            other = "videos/text2video" if kind == OMNI_KIND else OMNI_KIND
            found = await client.get(f"{prefix}/v1/{kind}/{task.id}")
            assert (kind, found.json()["data"]["task_id"]) == (kind, task.id)
            listed = await client.get(f"{prefix}/v1/{kind}")
            assert [each["task_id"] for each in listed.json()["data"]] == [task.id]
            refusal(await client.get(f"{prefix}/v1/{other}/{task.id}"), 400, 1201)


async def test_repeated_slashes_count_as_one(api: ApiHarness) -> None:
    async with api.client() as client:
        for path in (f"/{OMNI}", "/kling//v1///images/omni-image", f"//kling{OMNI}"):
            made = await client.post(f"http://127.0.0.1{path}", json=SEED)
            assert made.status_code == 200
            ref = made.json()["data"]["task_id"]
            assert (await client.get(f"http://127.0.0.1{path}//{ref}")).json()["data"]["task_id"] == ref
            assert (await client.get(f"http://127.0.0.1//tasks?task_ids={ref}")).json()["data"][0]["id"] == ref


async def test_empty_field_counts_as_absent(api: ApiHarness) -> None:
    fields = ["model_name", "negative_prompt", "image", "aspect_ratio", "external_task_id", "n"]

    async with api.client() as client:
        for body in ({"prompt": "a cat"}, *({"prompt": "a cat", field: ""} for field in fields)):
            assert (await client.post(OMNI, json=body)).status_code == 200

    assert api.provider.creates == [{"prompt": "a cat"}] * (1 + len(fields))
    assert len({task.request_hash for task in await api.tasks()}) == 1


async def test_whole_number_as_fraction_is_sent_as_integer(api: ApiHarness) -> None:
    async with api.client() as client:
        assert (await client.post(OMNI, json={"prompt": "a cat", "n": 1.0})).status_code == 200
        refusal(await client.post(OMNI, json={"prompt": "a cat", "n": 1.5}), 400, 1201)

    assert [type(body["n"]) for body in api.provider.creates] == [int]


@prefixed
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", OMNI),
        ("DELETE", f"{OMNI}/a"),
        ("POST", f"{OMNI}/a"),
        ("PUT", "/tasks"),
        ("GET", "/text-to-video/kling-3.0"),
    ],
)
async def test_wrong_method_is_1202(prefix: str, method: str, path: str) -> None:
    async with closed_client() as client:
        refusal(await client.request(method, prefix + path), 404, 1202)


async def test_replies_never_contain_task_callback_url(api: ApiHarness) -> None:
    async with api.client() as client:
        created = await client.post(OMNI, json=SEED)
        ref = created.json()["data"]["task_id"]
        replies = [
            created,
            *[await client.get(path) for path in (OMNI, f"{OMNI}/{ref}", f"/tasks?task_ids={ref}", f"/v1/tasks/{ref}")],
        ]

    assert b"/callbacks/kling/" in api.provider.calls[0].body
    assert not [reply for reply in replies if "/callbacks/" in reply.text]
