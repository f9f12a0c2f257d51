import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest

from homing.sandbox import RunningSandbox, Sandbox, SandboxSettings, serve_in_thread
from tests.support.conditions import result_of

Start = Callable[..., RunningSandbox]
PATH = "/v1/images/omni-image"
SECRET = "made-up-secret-of-thirty-two-bytes!"


def client(sandbox: RunningSandbox, *, timeout: float = 5) -> httpx.Client:
    return httpx.Client(base_url=sandbox.base_url, headers=sandbox.headers, timeout=timeout, verify=False)


def create(http: httpx.Client, path: str = PATH, **body: Any) -> Any:
    reply = http.post(path, json={"prompt": "a cat", **body})
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


def finished(http: httpx.Client, task_id: str) -> Any:
    def data() -> Any:
        found = http.get(f"{PATH}/{task_id}").json()["data"]
        return found if found["task_status"] in {"succeed", "failed"} else None

    return result_of(data)


def test_task_runs_from_create_to_asset(kling_sandbox: RunningSandbox) -> None:
    with client(kling_sandbox) as http:
        made = create(http, external_task_id="mine", n=2)
        assert (made["task_status"], made["task_info"]) == ("submitted", {"external_task_id": "mine"})
        done = finished(http, made["task_id"])
        images = done["task_result"]["images"]
        assert [image["index"] for image in images] == [0, 1]
        assert (done["task_status"], done["final_unit_deduction"]) == ("succeed", "16")
        assert done["task_info"] == {"external_task_id": "mine"}
        assets = [httpx.get(image["url"], verify=False) for image in images]
    assert all(asset.content.startswith(b"\x89PNG\r\n") for asset in assets)
    assert assets[0].content != assets[1].content
    row = kling_sandbox.task("mine")
    assert (row["status"], row["result_urls"]) == ("succeed", [image["url"] for image in images])
    assert httpx.get(images[0]["url"][:-1] + "!", verify=False).status_code == 403


def test_unfinished_task_has_empty_objects(kling_sandbox_factory: Start) -> None:
    with client(kling_sandbox_factory(held=True, run_time=0)) as http:
        made = create(http, external_task_id="mine")
        reply = http.get(f"/kling{PATH}/mine").json()
    assert reply["message"] == "SUCCEED"
    assert reply["data"]["task_id"] == made["task_id"]
    assert (reply["data"]["task_info"], reply["data"]["task_result"]) == ({}, {})


def test_failed_task_is_no_api_error(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(held=True)
    with client(sandbox) as http:
        made = create(http)
        sandbox.finish(made["task_id"], status="failed")
        reply = http.get(f"{PATH}/{made['task_id']}").json()
    assert (reply["code"], reply["data"]["task_status"]) == (0, "failed")
    assert (reply["data"]["task_status_msg"], reply["data"]["task_result"]) == ("Image pixel is invalid", {})


def test_second_task_kind_has_its_own_path_and_list(kling_sandbox: RunningSandbox) -> None:
    other = "/v1/images/generations"
    with client(kling_sandbox) as http:
        first, second = create(http), create(http, other, model_name="kling-v2-1")
        assert [task["task_id"] for task in http.get(other).json()["data"]] == [second["task_id"]]
        assert http.get(f"{other}/{second['task_id']}").status_code == 200
        assert http.get(f"{other}/{first['task_id']}").json()["code"] == 1201


@pytest.mark.parametrize("prefix", ["", "/kling"])
def test_missing_task_returns_400_1201(kling_sandbox: RunningSandbox, prefix: str) -> None:
    with client(kling_sandbox) as http:
        reply = http.get(f"{prefix}{PATH}/a/b%20c")
    assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert reply.json()["message"] == "Task not found by id/external id: a/b c"


def test_external_id_makes_only_one_task(kling_sandbox: RunningSandbox) -> None:
    with client(kling_sandbox) as http:
        made = create(http, external_task_id="mine")
        reply = http.post(PATH, json={"prompt": "a cat", "external_task_id": "mine"})
    assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert reply.json()["message"] == "External_task_id mine already exists"
    assert kling_sandbox.ledger["creations"] == {"mine": {"requests": 2, "accepted": 1, "task_ids": [made["task_id"]]}}


def test_slots_are_held_until_task_ends(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(held=True, slots=3)
    with client(sandbox) as http:
        made = create(http, n=2)
        reply = http.post(PATH, json={"prompt": "a cat", "n": 2})
        assert (reply.status_code, reply.json()["code"]) == (429, 1303)
        assert reply.json().keys() == {"code", "message", "request_id"}
        assert reply.json()["message"] == "parallel task over resource pack limit"
        sandbox.finish(made["task_id"], status="failed")
        create(http, n=2)


def test_batch_uses_new_shape_and_skips_missing(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(held=True)
    with client(sandbox) as http:
        first, second = create(http, external_task_id="one"), create(http, external_task_id="two")
        sandbox.finish("two")
        by_id = http.get("/tasks", params={"task_ids": f"{first['task_id']},nope,{second['task_id']}"}).json()
        by_external = http.get("/kling/tasks", params={"external_task_ids": "two,nope"}).json()
        assert [(task["id"], task["status"]) for task in by_id["data"]] == [
            (first["task_id"], "submitted"),
            (second["task_id"], "succeeded"),
        ]
        assert [task["external_id"] for task in by_external["data"]] == ["two"]
        nothing = http.get("/tasks", params={"task_ids": "nope"})
        assert (nothing.status_code, nothing.json()["data"]) == (200, [])
    assert sandbox.task("two")["queries"] == 2


@pytest.mark.parametrize(
    "params",
    [{}, {"task_ids": ""}, {"task_ids": "1", "external_task_ids": "1"}, {"task_ids": ",".join("x" * 21)}],
)
def test_invalid_batch_returns_1201(kling_sandbox: RunningSandbox, params: dict[str, str]) -> None:
    with client(kling_sandbox) as http:
        reply = http.get("/tasks", params=params)
    assert (reply.status_code, reply.json()["code"]) == (400, 1201)


def test_lists_page_by_number_and_cursor(kling_sandbox_factory: Start) -> None:
    with client(kling_sandbox_factory(held=True)) as http:
        ids = [create(http)["task_id"] for _ in range(3)]
        page = http.get(PATH, params={"pageNum": 1, "pageSize": 2}).json()["data"]
        assert [task["task_id"] for task in page] == ids[:0:-1]
        first = http.post("/tasks", json={"limit": 2}).json()["data"]
        rest = http.post("/tasks", json={"cursor": first["next_cursor"]}).json()["data"]
    assert ([task["id"] for task in first["result"]], first["has_more"]) == (ids[:0:-1], True)
    assert ([task["id"] for task in rest["result"]], rest["has_more"], rest["count"]) == (ids[:1], False, 1)


def test_token_opens_only_legacy_paths(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(access_keys={"ak": SECRET})
    now = int(time.time())
    token = jwt.encode({"iss": "ak", "exp": now + 1800, "nbf": now - 5}, SECRET, "HS256")
    with client(sandbox) as http:
        http.headers["Authorization"] = f"Bearer {token}"
        made = create(http)
        reply = http.get("/tasks", params={"task_ids": made["task_id"]})
    assert (reply.status_code, reply.json()["code"]) == (401, 1002)
    assert reply.json()["message"] == "The current API does not support AK/SK"
    assert sandbox.task(made["task_id"])["account"] == "access-key ak"


def test_reseller_has_no_external_ids_or_tasks_path(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(reseller=True)
    with client(sandbox) as http:
        first, second = create(http, external_task_id="mine"), create(http, external_task_id="mine")
        assert first.keys() == {"task_id", "task_status", "created_at", "updated_at"}
        assert http.get(f"{PATH}/mine").json()["code"] == 1201
        assert finished(http, first["task_id"])["task_info"] == {}
        assert http.get("/tasks", params={"task_ids": first["task_id"]}).json()["code"] == 1002
    doubled = sandbox.ledger["creations"]["mine"]
    assert doubled == {"requests": 2, "accepted": 2, "task_ids": [first["task_id"], second["task_id"]]}


def test_unknown_paths_and_methods_return_errors(kling_sandbox: RunningSandbox) -> None:
    with client(kling_sandbox) as http:
        replies = [http.get("/v1/images/oil-painting"), http.get("/nope"), http.put(PATH)]
    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [
        (404, 1203),
        (404, 1203),
        (404, 1202),
    ]


def test_new_task_may_be_missing_at_first(kling_sandbox_factory: Start) -> None:
    with client(kling_sandbox_factory(not_found_lag=60)) as http:
        made = create(http)
        assert http.get(f"{PATH}/{made['task_id']}").json()["code"] == 1201
    began = time.monotonic()
    with client(kling_sandbox_factory(not_found_lag=0.3)) as http:
        made = create(http)
        result_of(lambda: http.get(f"{PATH}/{made['task_id']}").json()["code"] == 0)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("hang_for", [0, 60])
def test_lost_reply_leaves_task_without_answer(kling_sandbox_factory: Start, hang_for: float) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_reply_lost": 1}, hang_for=hang_for)
    with client(sandbox, timeout=0.3) as http, pytest.raises(httpx.TransportError):
        create(http, external_task_id="mine")
    result_of(lambda: sandbox.ledger["tasks"])
    with client(sandbox) as http:
        assert http.get(f"{PATH}/mine").json()["code"] == 0


def test_lost_reply_drops_or_hangs(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_reply_lost": 1}, hang_for=60)
    timeouts = set()
    for _ in range(10):
        with client(sandbox, timeout=0.4) as http, pytest.raises(httpx.TransportError) as lost:
            create(http)
        timeouts.add(isinstance(lost.value, httpx.TimeoutException))
    assert timeouts == {True, False}


def test_stopping_sandbox_releases_waiting_clients(caplog: pytest.LogCaptureFixture) -> None:
    settings = SandboxSettings(faults={"slow": 1}, slow_by=60)
    answers: list[int] = []
    with serve_in_thread(settings) as sandbox:

        def ask() -> None:
            with client(sandbox, timeout=60) as http:
                answers.append(http.post(PATH, json={"prompt": "a cat"}).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        result_of(lambda: sandbox.ledger["tasks"])
    asking.join(10)
    assert answers == [200]
    assert caplog.messages == []


@pytest.mark.parametrize(("fault", "status", "code"), [("submit_busy", 429, 1303), ("submit_unavailable", 503, 5001)])
def test_refused_submit_makes_no_task(kling_sandbox_factory: Start, fault: str, status: int, code: int) -> None:
    sandbox = kling_sandbox_factory(faults={fault: 1})
    with client(sandbox) as http:
        reply = http.post(PATH, json={"prompt": "a cat", "external_task_id": "mine"})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert "data" not in reply.json()
    assert sandbox.ledger["tasks"] == []
    assert sandbox.ledger["creations"]["mine"] == {"requests": 1, "accepted": 0, "task_ids": []}


def test_foreign_refusals_take_every_form(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_foreign": 1})
    with client(sandbox) as http:
        replies = [http.post(PATH, json={"prompt": "a cat"}) for _ in range(40)]
    assert {reply.status_code for reply in replies} == {401, 403, 404, 405, 429}
    assert all(reply.json()["error"]["message"] for reply in replies)
    assert sandbox.ledger["tasks"] == []


def test_late_submit_makes_task_after_lost_reply(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_late": 1}, late_by=0.1)
    with client(sandbox) as http, pytest.raises(httpx.RemoteProtocolError):
        http.post(PATH, json={"prompt": "a cat"})
    result_of(lambda: sandbox.ledger["tasks"])


@pytest.mark.parametrize("again", [False, True])
def test_repeated_submit_returns_second_answer(kling_sandbox_factory: Start, *, again: bool) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_repeated": 1, "duplicate_made": float(again), "lookup_denied": 1})
    with client(sandbox) as http:
        reply = http.post(PATH, json={"prompt": "a cat", "external_task_id": "mine"})
        looked_up = http.get(f"{PATH}/mine")
    assert reply.json()["code"] == (0 if again else 1201)
    assert len(sandbox.ledger["creations"]["mine"]["task_ids"]) == (2 if again else 1)
    assert looked_up.json()["message"] == "Task not found by id/external id: mine"


def test_server_error_sometimes_made_the_task(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(faults={"server_error": 1})
    with client(sandbox) as http:
        replies = [http.post(PATH, json={"prompt": "a cat"}) for _ in range(30)]
    assert {reply.status_code for reply in replies} == {500, 502, 504}
    assert 0 < len(sandbox.ledger["tasks"]) < 30


def test_query_error_takes_every_form(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory()
    with client(sandbox) as http:
        made = create(http)
        sandbox.set_faults({"query_error": 1})
        replies = [http.get(f"{PATH}/{made['task_id']}") for _ in range(40)]
    texts = {(reply.status_code, reply.text[:10]) for reply in replies}
    assert texts == {(500, '{"code":50'), (429, '{"code":13'), (200, '{"code":50'), (200, '{"code":0,')}


def test_dripping_reply_completes(kling_sandbox_factory: Start) -> None:
    with client(kling_sandbox_factory(faults={"dripping": 1}, drip_pause=0.0005)) as http:
        assert create(http)["task_status"] == "submitted"
        with http.stream("GET", f"{PATH}/nope") as reply:
            assert len(list(reply.iter_raw())) > 5


def test_slow_reply_exceeds_short_timeout(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(faults={"slow": 1}, slow_by=60)
    with client(sandbox, timeout=0.3) as http, pytest.raises(httpx.ReadTimeout):
        create(http)
    result_of(lambda: len(sandbox.ledger["tasks"]) == 1)


def test_oversized_body_is_refused(kling_sandbox_factory: Start) -> None:
    with client(kling_sandbox_factory(max_body=1000)) as http:
        reply = http.post(PATH, json={"prompt": "x" * 2000})
    assert (reply.status_code, reply.json()["code"]) == (400, 1200)


def test_steering_error_lists_valid_values(kling_sandbox_factory: Start) -> None:
    sandbox = kling_sandbox_factory(held=True)
    with client(sandbox) as http:
        task_id = create(http)["task_id"]
        for path, body, status, text in (
            (f"tasks/{task_id}", {"action": "explode"}, 400, "hold, release"),
            (f"tasks/{task_id}", {"action": "finish", "state": "failed"}, 400, "status, message, notify"),
            (f"tasks/{task_id}", {"action": "finish", "notify": "no"}, 400, "notify must be a bool"),
            (f"tasks/{task_id}", {"action": "finish", "status": "gone"}, 409, "succeed or failed"),
            (f"tasks/{task_id}", {"action": "callback", "seal": "wax"}, 400, "wrong_key"),
            (f"tasks/{task_id}", {"action": "callback"}, 409, "Set a target"),
            ("tasks/nope", {"action": "hold"}, 404, "nope"),
            ("faults", {"callback_los": 1}, 400, "callback_lost"),
            ("faults", {"callback_lost": 2}, 400, "from 0 to 1"),
        ):
            reply = http.post(f"/sandbox/{path}", json=body)
            assert (reply.status_code, text in reply.json()["error"]) == (status, True), reply.text
        sandbox.finish(task_id)
        with pytest.raises(ValueError, match="already ended"):
            sandbox.finish(task_id)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "rebound.example.com:8090"}, 421),
        ({"host": "127.0.0.1.example.com"}, 421),
        ({"host": ""}, 421),
        ({"origin": "https://evil.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"host": "sandbox:8090"}, 200),
        ({"host": "[::1]:8090"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_web_page_cannot_steer_the_sandbox(kling_sandbox: RunningSandbox, headers: dict[str, str], status: int) -> None:
    with client(kling_sandbox) as http:
        headers = {"content-type": "application/json"} | headers
        reply = http.post("/sandbox/faults", content=b'{"slow": 0.0}', headers=headers)
        assert reply.status_code == status
        if "content-type" not in headers:
            assert http.get("/sandbox/ledger", headers=headers).status_code == status


def test_held_task_waits_until_released(kling_sandbox_factory: Start) -> None:
    # A task that ends quickly cannot be held in time, so this test uses two tasks.
    running = kling_sandbox_factory(run_time=3600)
    with client(running) as http:
        assert running.hold(create(http)["task_id"])["held"] is True
    sandbox = kling_sandbox_factory(held=True, run_time=0.1)
    with client(sandbox) as http:
        task_id = create(http)["task_id"]
        assert sandbox.process(task_id)["status"] == "processing"
        sandbox.release(task_id)
        assert finished(http, task_id)["task_status"] == "succeed"
    states = [state["status"] for state in sandbox.task(task_id)["states"]]
    assert states == ["submitted", "processing", "succeed"]


def test_equal_seed_fails_the_same_tasks(kling_sandbox_factory: Start) -> None:
    fates = []
    for _ in range(2):
        sandbox = kling_sandbox_factory(seed=5, failure_rate=0.5, held=True)
        with client(sandbox) as http:
            ids = [create(http)["task_id"] for _ in range(12)]
        fates.append([sandbox.finish(task_id)["status"] for task_id in ids])
    assert fates[0] == fates[1]
    assert set(fates[0]) == {"succeed", "failed"}


async def test_sandbox_runs_inside_callers_event_loop() -> None:
    async with Sandbox(SandboxSettings(run_time=0.05)) as sandbox:
        transport = httpx.ASGITransport(app=sandbox.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
            http.headers["Authorization"] = f"Bearer {sandbox.settings.api_keys[0]}"
            made = (await http.post(PATH, json={"prompt": "a cat"})).json()["data"]
            found = (await http.get(f"{PATH}/{made['task_id']}")).json()["data"]
    assert found["task_status"] in {"submitted", "processing", "succeed"}
    assert [task.id for task in sandbox.ledger] == [made["task_id"]]
