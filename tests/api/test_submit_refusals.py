"""Reseller answers to a create request, as client and operator see them. A refused request is never sent later."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.homing_server import ANYBODY, SHORT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, page, provider_proxy, refusal
from tracker.model.task import Status

AFTERWARDS = SHORT.answer_within + SHORT.lease_margin + SHORT.absence_wait
KEYS = "ops*:made-up-operator-key,studio:made-up-studio-key"
STUDIO = {"authorization": "Bearer made-up-studio-key"}


def gateway(status: int, message: str, code: str) -> Answer:
    body = {"error": {"message": message, "type": "new_api_error", "code": code}}
    return Answer(status=status, body=json.dumps(body).encode(), headers={"content-type": "application/json"})


# The answer; then the HTTP status, the code and the text that the client gets, and the alarm.
REFUSED: dict[str, tuple[Answer, int, int, str, str | None]] = {
    "no key": (gateway(401, "Invalid token", "x"), 503, 5001, "credential refused", "credential"),
    "no money": (gateway(403, "quota is not enough", "insufficient_user_quota"), 403, 1102, "not enough", None),
    "no path": (page(404), 503, 5001, "no such call at HOMING_KLING_BASE_URL", "no_such_call"),
    "no method": (gateway(405, "not allowed", "x"), 503, 5001, "no such call", "no_such_call"),
    "applied": (Answer(status=301, body=b"", headers={"location": "/"}), 503, 5001, "no such call", "no_such_call"),
    "bad prompt": (gateway(400, "prompt is too long", "invalid_prompt"), 400, 1201, "prompt is too long", None),
}


async def nothing_more_is_sent(homing: HomingServer, creates: int, sandbox: RunningSandbox) -> None:
    """Advance the clock beyond the longest delay of a resubmission."""
    for _ in range(6):
        homing.clock.ahead += AFTERWARDS
        await homing.reconciler.run_once()
    assert sandbox.ledger["requests"]["create"] == creates


async def test_gateway_refusal_is_never_resent(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        prompt = json.loads(request.body)["prompt"] if request.creates else ""
        return REFUSED[prompt][0] if prompt in REFUSED else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await homing.know_lookups()
        for prompt, (_, status, code, text, _) in REFUSED.items():
            reply = await homing.create(prompt=prompt, external_task_id="the same for all")
            assert (reply.status_code, reply.json()["code"]) == (status, code), prompt
            assert text in reply.json()["message"], prompt
            task = await homing.task("the same for all")
            assert (task.status, task.released, task.next_poll_at) == (Status.REJECTED, True, None), prompt
        alarms = await homing.alarms()
        assert alarms == {"credential": 1, "no_such_call": 3}
        await nothing_more_is_sent(homing, 0, kling_sandbox)


async def test_gateway_capacity_error_is_retried_then_returned(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    answers = [gateway(429, "slow down", "rate_limit")]

    async def script(request: Request) -> Answer | None:
        if not request.creates or not answers:
            return await request.forward()
        if line.count(lambda request: request.creates) == 3:
            homing.clock.ahead += policy.answer_within
        return answers[0]

    policy = replace(SHORT, answer_within=timedelta(minutes=5))
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        reply = await homing.create()
        assert (reply.status_code, reply.json()["code"], reply.json()["message"]) == (429, 1302, "slow down")
        assert line.count(lambda request: request.creates) == 3
        assert kling_sandbox.ledger["requests"]["create"] == 0


async def test_unknown_answer_alarm_holds_no_credential(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The text may contain the operator's key or concern other clients. The client sees only the kind of answer."""
    text = "bad response from upstream for sandbox-api-key of the secret project"

    async def script(request: Request) -> Answer | None:
        return gateway(502, text, "bad_response") if request.creates else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False, api_keys=KEYS) as homing,
    ):
        ours = await homing.created(headers=STUDIO)
        [alarm] = (await homing.tracker.stats(ANYBODY)).alarms
        assert "bad response from upstream for *** of the secret project" in alarm.detail

        async def history(headers: dict[str, str]) -> httpx.Response:
            return await homing.client.get(f"/v1/tasks/{ours}/history", headers=headers)

        operator = (await history({})).text
        client = (await history(STUDIO)).text
    assert "upstream for *** of the secret project" in operator
    assert "upstream" not in client
    assert "HTTP 502" in client
    assert "sandbox-api-key" not in operator + client + alarm.detail


async def test_refusal_text_holds_no_credential(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:  # noqa: ARG001 - a script takes the request
        return gateway(403, "token sandbox-api-key has no quota", "insufficient_user_quota")

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        reply = await homing.create()
    assert reply.json()["message"] == "token *** has no quota"


@pytest.mark.parametrize("how", ["credential", "path", "full"])
async def test_resubmission_refused_ends_rejected(tmp_path: Path, kling_sandbox: RunningSandbox, how: str) -> None:
    """A client that got success learns of the later refusal. Homing does not send the task hours later."""
    answers = {"credential": gateway(401, "no", "x"), "path": page(404), "full": refusal(429, 1303)}
    lost = [None]

    async def script(request: Request) -> Answer | None:
        if not request.creates:
            return await request.forward()
        return lost.pop() if lost else answers[how]

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await homing.know_lookups()
        ours = await homing.created(prompt="a dog")

        async def sent_again() -> bool:
            return line.count(lambda request: request.creates) >= 2

        await homing.reconcile(sent_again, step=AFTERWARDS)
        assert (await homing.task(ours)).status is Status.PENDING
        homing.clock.ahead += homing.tracker.policy.repeat_within

        async def rejected() -> bool:
            return (await homing.task(ours)).status is Status.REJECTED

        await homing.reconcile(rejected, step=timedelta(seconds=30))
        await nothing_more_is_sent(homing, 0, kling_sandbox)
        with closing(sqlite3.connect(tmp_path / "homing.db")) as database:
            events = database.execute("SELECT type FROM events WHERE task_id = ?", (ours,)).fetchall()
    assert events == [("homing.task.rejected",)]
