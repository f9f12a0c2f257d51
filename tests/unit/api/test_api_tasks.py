"""The task state API over a real tracker."""

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.api_harness import PUBLIC_URL, ApiHarness, closed_client, kling_error
from tests.support.builders import NOW, OMNI, a_task, an_entry
from tests.support.published_events import SUCCESS, a_success
from tracker.api import Access
from tracker.api.http.problems import PROBLEMS
from tracker.api.rendering import body_text
from tracker.errors import (
    Conflict,
    CredentialMissing,
    CredentialRefused,
    HomingError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ProviderUnavailable,
    Refused,
    StoreUnavailable,
)
from tracker.model.facts import asset_to_json
from tracker.model.keys import NamedKey
from tracker.model.task import Asset, Fact, Status

KEYED = Access(
    api_keys=(
        NamedKey(name="studio", key="made-up-studio-key"),
        NamedKey(name="operator", key="made-up-operator-key", sees_all=True),
    )
)
STUDIO = {"authorization": "Bearer made-up-studio-key"}
OPERATOR = {"authorization": "Bearer made-up-operator-key"}
TOKEN = "1" + "0a1b2c3d" + "hm0000000000000000000000aa" + "-" + "A" * 22
CALLBACK_URL = f"{PUBLIC_URL}/callbacks/kling/{TOKEN}"


def is_problem(reply: httpx.Response, status: int, kind: str) -> str:
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert set(body) == {"type", "title", "status", "detail", "request_id"}
    assert body["type"] == f"urn:homing:problem:{kind}"
    assert body["status"] == status
    assert body["request_id"] == reply.headers["x-request-id"]
    return str(body["detail"])


async def test_task_shows_its_result_and_status_source(api: ApiHarness) -> None:
    asset = Asset(kind="image", url="https://cdn.example.com/1.png", expires_at=NOW + timedelta(days=30))
    facts = {
        "assets": Fact(precedence=SUCCESS, value=[asset_to_json(asset)]),
        "price": Fact(precedence=SUCCESS, value={"final_unit_deduction": "8"}),
    }
    task = a_success(tags=("spring",), external_id="mine-1", request={"prompt": "a cat"}, facts=facts, next_poll_at=NOW)
    await api.add(task)

    async with api.client() as client:
        reply = await client.get(f"/v1/tasks/{task.id}")

    assert reply.status_code == 200
    shown = reply.json()
    (only,) = shown["result"]["assets"]
    assert (only["kind"], only["index"], only["url"]) == ("image", 0, "https://cdn.example.com/1.png")
    assert only["expires_at"] == "2026-12-23T12:00:00Z"
    assert shown["status_source"] == {"source": "poll", "trust": "provider"}
    assert shown["price"] == {"final_unit_deduction": "8"}
    assert (shown["id"], shown["status"], shown["version"]) == (task.id, "succeeded", 3)
    assert (shown["external_id"], shown["tags"], shown["request"]) == ("mine-1", ["spring"], {"prompt": "a cat"})
    assert shown["next_poll_at"] == "2026-11-23T12:00:00Z"


async def test_pending_task_shows_its_reason(api: ApiHarness) -> None:
    task = a_task(status=Status.PENDING, reason="unresolved")
    await api.add(task)

    async with api.client() as client:
        shown = (await client.get(f"/v1/tasks/{task.id}")).json()

    assert (shown["status"], shown["reason"], shown["status_source"]) == ("pending", "unresolved", None)


async def test_encoded_id_may_have_slashes_and_unicode(api: ApiHarness) -> None:
    refs = ["mine/1", "mine 1", "bäume", "100%", "a?b#c", "..."]
    tasks = [a_task(number, external_id=ref) for number, ref in enumerate(refs, start=1)]
    await api.add(*tasks)

    async with api.client() as client:
        for task, ref in zip(tasks, refs, strict=True):
            path = "/v1/tasks/" + "".join(f"%{byte:02X}" for byte in ref.encode())
            assert (await client.get(path)).json()["id"] == task.id
            assert (await client.get(f"{path}/history")).json()["task"]["id"] == task.id


async def test_unknown_id_is_404(api: ApiHarness) -> None:
    await api.add(a_task())

    async with api.client() as client:
        for ref in ("unknown", "%ED%A0%80", "%FF"):
            is_problem(await client.get(f"/v1/tasks/{ref}"), 404, "not-found")


@pytest.mark.parametrize("ref", ["%00", "%0A", "x" * 201, "%E2%80%AE", "%2e", "%2E%2e", "a/b/c"])
async def test_impossible_id_is_not_looked_up(ref: str) -> None:
    async with closed_client() as client:
        is_problem(await client.get(f"/v1/tasks/{ref}"), 404, "nothing-here" if "/" in ref else "not-found")


async def test_client_sees_only_its_own_tasks(api: ApiHarness) -> None:
    mine, theirs = a_task(1, client="studio"), a_task(2, client="other")
    await api.add(mine, theirs)

    async with api.client(KEYED, headers=STUDIO) as client:
        assert [task["id"] for task in (await client.get("/v1/tasks")).json()["tasks"]] == [mine.id]
        is_problem(await client.get(f"/v1/tasks/{theirs.id}"), 404, "not-found")
        is_problem(await client.get("/v1/tasks?client=other"), 403, "forbidden")
        assert (await client.get("/v1/tasks?client=studio")).status_code == 200
        assert (await client.get("/v1/stats")).json()["open"] == 1
    async with api.client(KEYED, headers=OPERATOR) as client:
        assert [task["id"] for task in (await client.get("/v1/tasks")).json()["tasks"]] == [theirs.id, mine.id]
        assert [task["id"] for task in (await client.get("/v1/tasks?client=other")).json()["tasks"]] == [theirs.id]


FILTERS: dict[str, Sequence[int]] = {
    "": [3, 2, 1],
    "status=failed": [2],
    "status=failed&status=succeeded": [3, 2],
    "status=failed,succeeded": [3, 2],
    f"kind={OMNI}&provider=kling": [3, 2, 1],
    "kind=videos/text2video": [],
    "tag=spring": [1],
    "model=fast": [3, 1],
    "model=fas": [],
    "metadata[order]=17": [2, 1],
    "metadata%5Border%5D=17&metadata[stage]=a%20b": [1],
    "metadata[order]=17&tag=spring&model=fast": [1],
    "metadata[order]=": [],
    "metadata[odd]]=": [3],
    "created_after=2026-11-23T12:00:01Z": [3, 2],
    "created_after=2026-11-23T13:00:01%2B01:00&created_before=2026-11-23T12:00:02Z": [2],
}


async def test_tasks_are_filtered(api: ApiHarness) -> None:
    tasks = [
        a_task(1, tags=("spring",), model="fast", metadata={"order": "17", "stage": "a b"}),
        a_task(2, status=Status.FAILED, metadata={"order": "17"}),
        a_success(3, model="fast", metadata={"odd]": ""}),
    ]
    await api.add(*tasks)

    async with api.client() as client:
        for query, numbers in FILTERS.items():
            reply = await client.get(f"/v1/tasks?{query}")
            assert [task["id"] for task in reply.json()["tasks"]] == [tasks[number - 1].id for number in numbers], query


async def test_cursor_walks_all_pages(api: ApiHarness) -> None:
    tasks = [a_task(number) for number in range(1, 6)]
    await api.add(*tasks)
    seen: list[str] = []
    cursor: str | None = ""

    async with api.client() as client:
        while cursor is not None:
            params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/v1/tasks", params=params)).json()
            seen += [task["id"] for task in page["tasks"]]
            cursor = page["next_cursor"]

    assert seen == [task.id for task in reversed(tasks)]


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "limit=0",
        "limit=201",
        "limit=99999999999999999999999",
        "limit=two",
        "limit=1&limit=2",
        "created_after=yesterday",
        "created_after=2026-11-23T12:00:00",
        "created_after=1900-01-01T00:00:00Z",
        "created_before=9999-12-31T23:59:59Z",
        "tag=%00",
        "model=%00",
        "metadata=17",
        "metadata[order]=1&metadata[order]=2",
        "metadata[]=1",
        "metadata[order]=%00",
        f"metadata[{'x' * 65}]=1",
        f"metadata[order]={'x' * 501}",
        "&".join(f"metadata[{number}]=1" for number in range(6)),
        "tag[a]=1",
        "cursor=%0A",
        "stauts=failed",
        "kind=",
    ],
)
async def test_invalid_query_is_refused_by_name(query: str) -> None:
    async with closed_client() as client:
        detail = is_problem(await client.get(f"/v1/tasks?{query}"), 400, "invalid-request")
    assert query.partition("=")[0].partition("[")[0] in detail


async def test_history_shows_bodies_only_to_all_clients_keys(api: ApiHarness) -> None:
    body = b'{"task_id":"8001","task_status":"succeed"}'
    task = a_task(client="studio")
    await api.add(task, entries=[an_entry(task, "one", body=body, provider_status="succeed", status=Status.SUCCEEDED)])
    path = f"/v1/tasks/{task.id}/history"

    async with api.client(KEYED, headers=STUDIO) as client:
        entry = (await client.get(path)).json()["entries"][0]
    async with api.client(KEYED, headers=OPERATOR) as client:
        seen = (await client.get(path)).json()["entries"][0]

    assert (entry["body"], seen["body"]) == (None, body.decode())
    assert (entry["body_size"], len(entry["body_sha256"])) == (len(body), 64)
    assert (entry["source"], entry["trust"], entry["verdict"], entry["provider_status"]) == (
        "callback",
        "token",
        "applied",
        "succeed",
    )


@pytest.mark.parametrize(
    "body",
    [
        CALLBACK_URL.encode(),
        f'{{"callback_url":"{CALLBACK_URL}"}}'.encode(),
        f'{{"callback_url":"{CALLBACK_URL}"}}'.replace("/", "\\/").encode(),
        f"x{' ' * 4060}{TOKEN}".encode(),
        b"see s" + b"a" * 43,
    ],
)
def test_recorded_body_never_shows_callback_url(body: bytes) -> None:
    shown = body_text(body)

    assert shown is not None
    assert "[callback URL]"[:10] in shown
    assert TOKEN[:16] not in shown
    assert "aaaaaaaa" not in shown


@pytest.mark.parametrize(
    "written",
    [
        f"callbacks\\u002fkling\\u002F{TOKEN}",
        f"callbacks%2Fkling%2f{TOKEN}",
        f"callbacks%252Fkling%252F{TOKEN}",
        f"\\u0025252F{TOKEN}",
        "\\u002F\\u0031" + TOKEN[1:],
        "%2F%31" + TOKEN[1:],
        "%2fs" + "a" * 43,
        "\\u002Fs" + "a" * 43,
    ],
)
def test_token_in_any_encoding_is_masked(written: str) -> None:
    shown = body_text(f'{{"a": "{written}"}}'.encode())

    assert shown is not None
    assert "[callback URL]" in shown
    assert TOKEN[1:16] not in shown
    assert "aaaaaaaa" not in shown


def test_mask_leaves_rest_of_body_unchanged() -> None:
    body = '{"a": "\\u0022\\u005c\\u000a%zz 100% \\u00e4", "url": "https://cdn.example.com/1.png?x=1"}'

    assert body_text(body.encode()) == body


async def test_recorded_body_is_masked_bounded_and_text_only(api: ApiHarness) -> None:
    task = a_task()
    bodies = [CALLBACK_URL.encode(), b"a b" * 5000, b"\xff\xfe"]
    await api.add(task, entries=[an_entry(task, str(at), body=body) for at, body in enumerate(bodies)])

    async with api.client() as client:
        entries = (await client.get(f"/v1/tasks/{task.id}/history")).json()["entries"]

    masked, long, binary = (entry["body"] for entry in entries)
    assert (masked, len(long), binary) == ("[callback URL]", 4096, None)


async def test_poll_returns_outcome_in_one_sentence(api: ApiHarness) -> None:
    task = a_task(provider_task_id="8001", status=Status.SUBMITTED, submitted_at=NOW)
    await api.add(task)
    api.provider.add("8001", external_id=task.id, status="processing")

    async with api.client() as client:
        reply = await client.post(f"/v1/tasks/{task.id}/poll")

    assert (reply.json()["task"]["status"], reply.json()["outcome"]) == ("processing", "submitted → processing")


async def test_resolve_accepts_status_or_provider_task_id(api: ApiHarness) -> None:
    one, other = a_task(1), a_task(2)
    await api.add(one, other)
    api.provider.add("8001", external_id=other.id)

    async with api.client() as client:
        body = {"status": "rejected", "note": "seen in the console"}
        ended = (await client.post(f"/v1/tasks/{one.id}/resolve", json=body)).json()
        entries = (await client.get(f"/v1/tasks/{one.id}/history")).json()["entries"]
        named = await client.post(f"/v1/tasks/{other.id}/resolve", json={"provider_task_id": "8001"})

    assert (ended["status"], entries[-1]["why"]) == ("rejected", "pending → rejected: seen in the console")
    assert named.json()["provider_task_id"] == "8001"


@pytest.mark.parametrize(
    "body",
    [{}, {"status": "processing"}, {"status": "rejected", "provider_task_id": "8001"}, {"status": "rejected", "x": 1}],
)
async def test_resolve_refuses_any_other_body(body: dict[str, Any]) -> None:
    async with closed_client() as client:
        is_problem(await client.post("/v1/tasks/mine-1/resolve", json=body), 400, "invalid-request")


async def test_expect_returns_task_and_callback_url(api: ApiHarness) -> None:
    body = {"provider": "kling", "kind": OMNI, "external_id": "mine-1", "deadline": 90, "tags": ["spring"]}

    async with api.client() as client:
        reply = await client.post("/v1/tasks/expect", json=body | {"metadata": {"order": "17"}})

    (task,) = await api.tasks()
    token = reply.json()["callback_url"].removeprefix(f"{PUBLIC_URL}/callbacks/kling/")
    assert (reply.status_code, api.tracker.task_of_token("kling", token)) == (201, task.id)
    assert (reply.json()["task"]["id"], reply.json()["task"]["tags"]) == (task.id, ["spring"])
    assert (reply.json()["task"]["metadata"], reply.json()["task"]["model"]) == ({"order": "17"}, None)
    assert (task.external_id, task.deadline_at - task.created_at) == ("mine-1", timedelta(seconds=90))


async def test_attach_and_adopt_set_provider_task_id(api: ApiHarness) -> None:
    task = a_task()
    await api.add(task)
    api.provider.add("8001", external_id=task.id)
    api.provider.add("8002", external_id="theirs-2")

    async with api.client() as client:
        attached = await client.patch(f"/v1/tasks/{task.id}", json={"provider_task_id": "8001"})
        adopted = await client.post(
            "/v1/tasks/adopt",
            json={"provider": "kling", "kind": OMNI, "provider_task_id": "8002", "metadata": {"order": "17"}},
        )
        found = await client.get("/v1/tasks?metadata[order]=17")

    assert attached.json()["provider_task_id"] == "8001"
    assert (adopted.status_code, adopted.json()["provider_task_id"]) == (201, "8002")
    assert [task["metadata"] for task in found.json()["tasks"]] == [{"order": "17"}]


ALL = "client, created_after, created_before, cursor, kind, limit, metadata, model, provider, status, tag"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/tasks?state=failed", f"state: unknown parameter; known are: {ALL}"),
        ("/v1/tasks?state=failed&state=expired", f"state: unknown parameter; known are: {ALL}"),
        (
            "/v1/tasks?limit=5&state=a&colour=b",
            f"state: unknown parameter; colour: unknown parameter; known are: {ALL}",
        ),
        ("/v1/tasks/a?fields=id", "fields: unknown parameter; known are: version, wait"),
        ("/v1/orphans?page=2", "page: unknown parameter; known are: limit"),
        ("/healthz?verbose", "verbose: unknown parameter; known are: none"),
    ],
)
async def test_unknown_parameter_is_named_with_known_ones(path: str, says: str) -> None:
    async with closed_client() as client:
        assert is_problem(await client.get(path), 400, "invalid-request") == says


async def test_many_unknown_parameters_are_named_in_part() -> None:
    async with closed_client() as client:
        reply = await client.get("/v1/orphans", params={f"p{number}": "secret-value" for number in range(50)})
    detail = is_problem(reply, 400, "invalid-request")
    assert detail.startswith("p0: unknown parameter; p1: unknown parameter; p2: unknown parameter; and 47 more; known")
    assert "secret-value" not in detail


async def test_unknown_field_is_named_with_known_ones() -> None:
    async with closed_client() as client:
        reply = await client.patch("/v1/tasks/mine-1", json={"provider_id": "8001"})
    says = "provider_task_id: Field required; provider_id: unknown field; known are: provider_task_id"
    assert is_problem(reply, 400, "invalid-request") == says


GOOD = {"provider": "kling", "kind": OMNI}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"provider": "kling"},
        {**GOOD, "provider": 7},
        {**GOOD, "provider": "nobody"},
        {**GOOD, "kind": "videos/unknown"},
        {**GOOD, "external_id": "x" * 201},
        {**GOOD, "external_id": ""},
        {**GOOD, "external_id": "a\nb"},
        {**GOOD, "deadline": 0},
        {**GOOD, "deadline": -5},
        {**GOOD, "deadline": 10**12},
        {**GOOD, "deadline": "soon"},
        {**GOOD, "deadline": True},
        {**GOOD, "tags": "spring"},
        {**GOOD, "tags": ["x"] * 21},
        {**GOOD, "tags": ["\u202e"]},
        {**GOOD, "metadata": ["order"]},
        {**GOOD, "metadata": {"order": 17}},
        {**GOOD, "metadata": {"order": {"number": "17"}}},
        {**GOOD, "metadata": {"": "17"}},
        {**GOOD, "metadata": {"k" * 65: "17"}},
        {**GOOD, "metadata": {"order": "x" * 501}},
        {**GOOD, "metadata": {"order": "a\nb"}},
        {**GOOD, "metadata": {str(number): "" for number in range(51)}},
        {**GOOD, "surprise": 1},
    ],
)
async def test_invalid_field_is_refused_without_quoting_it(body: dict[str, Any]) -> None:
    async with closed_client() as client:
        detail = is_problem(await client.post("/v1/tasks/expect", json=body), 400, "invalid-request")
    assert detail
    assert "xxxxxxxx" not in detail


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"provider":"\\u0000","kind":"k"}',
        b'{"provider":"\\ud800","kind":"k"}',
        b'{"provider":NaN}',
        b'{"provider":Infinity}',
        b'{"deadline":1e999}',
        b'{"deadline":' + b"9" * 30 + b"}",
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 200_000,
    ],
)
async def test_body_that_is_not_bounded_json_is_unreadable(raw: bytes) -> None:
    async with closed_client() as client:
        reply = await client.post("/v1/tasks/expect", content=raw, headers={"content-type": "application/json"})
    is_problem(reply, 400, "unreadable")


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
async def test_body_without_json_content_type_is_415(media_type: str) -> None:
    headers = {"content-type": media_type} if media_type else {}
    async with closed_client() as client:
        is_problem(await client.post("/v1/tasks/expect", content=b"{}", headers=headers), 415, "wrong-media-type")


async def test_charset_after_media_type_is_accepted(api: ApiHarness) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    async with api.client() as client:
        reply = await client.post("/v1/tasks/expect", content=json.dumps(GOOD).encode(), headers=headers)
    assert reply.status_code == 201


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/task", "/v1/tasks/", "/v1/tasks/a/b", "/v1/tasks/a/poll/x"])
async def test_unknown_path_is_problem_that_names_openapi_json(path: str) -> None:
    async with closed_client() as client:
        assert "/openapi.json" in is_problem(await client.get(path), 404, "nothing-here")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/tasks", "GET, POST"),
        ("PUT", "/v1/tasks/a", "GET, PATCH"),
        ("GET", "/v1/tasks/a/poll", "POST"),
        ("OPTIONS", "/v1/tasks", "GET, POST"),
        ("BREW", "/healthz", "GET"),
    ],
)
async def test_wrong_method_is_problem_that_names_allowed_ones(method: str, path: str, allow: str) -> None:
    async with closed_client() as client:
        reply = await client.request(method, path)
    is_problem(reply, 405, "not-allowed")
    assert reply.headers["allow"] == allow
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (InvalidRequest("no"), 400, "invalid-request", None),
        (NotFound("no"), 404, "not-found", None),
        (Conflict("no"), 409, "conflict", None),
        (StoreUnavailable("no"), 503, "store-unavailable", "5"),
        (Overloaded("no", retry_after=timedelta(seconds=1.2)), 503, "overloaded", "2"),
        (ProviderUnavailable("no"), 503, "provider-unavailable", "5"),
        (CredentialMissing("no"), 503, "credential-missing", "5"),
        (HomingError("no"), 500, "homing-error", None),
    ],
)
def test_error_is_problem_with_its_own_status(error: HomingError, status: int, kind: str, retry: str | None) -> None:
    answer = PROBLEMS.refuse(error, "made-up-id")

    body = json.loads(bytes(answer.body))
    assert (answer.status_code, answer.media_type) == (status, "application/problem+json")
    assert body == {
        "type": f"urn:homing:problem:{kind}",
        "title": error.title,
        "status": status,
        "detail": "no",
        "request_id": "made-up-id",
    }
    assert answer.headers.get("retry-after") == retry


@pytest.mark.parametrize("theirs", [200, 400, 403, 429])
def test_refusal_is_problem_with_provider_code(theirs: int) -> None:
    """The provider may refuse with any status, even with 200. A problem document never has that."""
    refused = PROBLEMS.refuse(Refused("risk", http_status=theirs, code=1301, task_id="hm1"), "made-up-id")
    busy = PROBLEMS.refuse(
        Refused("slots", http_status=theirs, code=1303, task_id="hm1", retry_after=timedelta(seconds=2)), "made-up-id"
    )

    assert (refused.status_code, refused.headers.get("retry-after")) == (422, None)
    assert (busy.status_code, busy.headers.get("retry-after")) == (429, "2")
    assert json.loads(bytes(refused.body)) == {
        "type": "urn:homing:problem:refused",
        "title": "Refused by the provider",
        "status": 422,
        "detail": "risk",
        "request_id": "made-up-id",
        "provider_code": "1301",
        "task_id": "hm1",
    }


async def test_tracker_errors_are_returned_as_problems(api: ApiHarness) -> None:
    body = {"provider": "kling", "kind": OMNI, "external_id": "mine-1"}

    async with api.client() as client:
        assert (await client.post("/v1/tasks/expect", json=body)).status_code == 201
        is_problem(await client.post("/v1/tasks/expect", json=body), 409, "conflict")
    async with closed_client() as client:
        closed = await client.get("/v1/tasks/a")

    assert is_problem(closed, 503, "store-unavailable") == "the database is not open"
    assert closed.headers["retry-after"] == "5"


def test_provider_text_about_credential_is_not_shown() -> None:
    answer = PROBLEMS.refuse(CredentialRefused("access key ak-made-up is not known (1002)"), "made-up-id")

    text = bytes(answer.body).decode()
    assert "does not accept this server's own key" in text
    assert "ak-made-up" not in text
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_provider_text_on_credential_reaches_no_client(api: ApiHarness) -> None:
    api.provider.always = kling_error(401, 1002, "access key ak-made-up is not known")

    async with api.client() as client:
        body = {"provider": "kling", "kind": OMNI, "provider_task_id": "8001"}
        replies = [
            await client.post("/v1/tasks/adopt", json=body),
            await client.post("/kling/v1/images/omni-image", json={"prompt": "a cat"}),
        ]

    assert [reply.status_code for reply in replies] == [503, 503]
    assert not [reply for reply in replies if "ak-made-up" in reply.text]


async def test_unexpected_error_is_500_that_quotes_nothing(api: ApiHarness, caplog: pytest.LogCaptureFixture) -> None:
    api.provider.always = RuntimeError("made-up-secret")

    async with api.client() as client:
        with caplog.at_level(logging.DEBUG):
            body = {"provider": "kling", "kind": OMNI, "provider_task_id": "8001"}
            reply = await client.post("/v1/tasks/adopt", json=body)

    is_problem(reply, 500, "homing-error")
    assert "made-up-secret" not in reply.text + caplog.text
    assert reply.headers["x-request-id"] in caplog.text
    assert "RuntimeError" in caplog.text


async def test_log_line_has_path_template_and_no_id_or_key(api: ApiHarness, caplog: pytest.LogCaptureFixture) -> None:
    await api.add(a_task(client="studio", external_id="mine-1"))

    async with api.client(KEYED, headers=STUDIO) as client:
        with caplog.at_level(logging.DEBUG, logger="homing.api"):
            await client.get("/v1/tasks/mine-1?")
            await client.get("/v1/nothing-like-mine-1")
    lines = [record.getMessage() for record in caplog.records if record.name == "homing.api"]
    assert [line.split()[:3] for line in lines] == [
        ["GET", "/v1/tasks/{ref}", "200"],
        ["GET", "/{rest:path}", "404"],
    ]
    assert "mine-1" not in "".join(lines)
    assert "made-up-studio-key" not in caplog.text


@pytest.mark.parametrize("name", ["authorization", "host"])
async def test_repeated_identity_header_is_refused(name: str) -> None:
    async with closed_client() as client:
        own = client.build_request("GET", "/v1/tasks")
        request = httpx.Request(
            "GET", own.url, headers=[*own.headers.items(), (name, "127.0.0.1"), (name, "127.0.0.1")]
        )

        is_problem(await client.send(request), 400, "invalid-request")
