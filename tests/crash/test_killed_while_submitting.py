"""SIGKILL at named points of a submission: real processes, a sandbox provider, and clients that repeat requests.

Each create request becomes one task in the provider's ledger, at whatever point the process died. The client uses its
own ID, an idempotency key, or neither.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.deployment import HOMING, Server, forever, server
from tests.support.homing_server import KIND
from tests.support.kling_examples import REQUESTS
from tests.support.provider_proxy import Answer, ProviderProxy, Request, provider_proxy
from tracker.rules.schedule import Policy

MODES = ("external id", "idempotency key", "neither")


def submit(homing: Server, mode: str) -> Coroutine[Any, Any, str]:
    """Send one create request until it is answered, with the identifier of the mode."""
    match mode:
        case "external id":
            return homing.sent(prompt=mode, external_task_id="mine/1")
        case "idempotency key":
            return homing.sent(prompt=mode, headers={"idempotency-key": "key-1"})
        case _:
            return homing.sent(prompt=mode)


async def proven(homing: Server) -> None:
    """Submit a first task and record that lookups work. Without that, Homing never resubmits by itself."""
    await homing.sent(prompt="the first")
    homing.know_lookups()


async def check_against_ledger(homing: Server, sandbox: RunningSandbox, answers: dict[str, str]) -> None:
    """Compare the tasks with the ledger after all are finished: no request is lost, doubled or wrong."""
    await homing.all_home()
    statuses = {"succeed": "succeeded", "failed": "failed"}
    rows = {task["id"]: task for task in await homing.tasks()}
    ledger = sandbox.ledger["tasks"]
    assert sorted(task["prompt"] for task in ledger) == sorted(["the first", *answers])
    # Homing derives the external ID from the client's ID, and otherwise sends the task ID.
    ours = [answers.get(truth["prompt"], truth["external_id"]) for truth in ledger]
    assert set(ours) == rows.keys()
    for task_id, truth in zip(ours, ledger, strict=True):
        row = rows[task_id]
        assert row["status"] == statuses[truth["status"]]
        # The provider task ID comes from a response of the provider, never from a callback.
        assert row["provider_task_id"] in {truth["id"], None}
        assert [asset["url"] for asset in row["result"]["assets"]] == truth["result_urls"]


async def survived(homing: Server, sandbox: RunningSandbox, line: ProviderProxy) -> None:
    """Send the requests to a server that is killed, restart it, and compare with the ledger."""
    clients = {mode: asyncio.create_task(submit(homing, mode)) for mode in MODES}
    await homing.dead()
    line.script = Request.forwarded
    await homing.start()
    answers = {mode: await client for mode, client in clients.items()}
    await check_against_ledger(homing, sandbox, answers)


async def test_kill_before_intent_commit(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:
        await homing.start("--when", "before", "--piece", "RecordSubmission", "--nth", "2")
        await proven(homing)
        await survived(homing, kling_sandbox, line)


async def test_kill_between_intent_and_submission(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def hold(request: Request) -> Answer | None:
        if request.creates:
            await forever()
        return await request.forward()

    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:
        await homing.start("--when", "after", "--piece", "RecordSubmission", "--nth", "4")
        await proven(homing)
        line.script = hold
        await survived(homing, kling_sandbox, line)
    assert kling_sandbox.ledger["requests"]["create"] == 4


@pytest.mark.parametrize("made", [False, True], ids=["the request was on its way", "the reply was on its way"])
async def test_kill_between_submission_and_reply(tmp_path: Path, kling_sandbox: RunningSandbox, *, made: bool) -> None:
    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:
        at_the_point: list[str] = []

        async def kill(request: Request) -> Answer | None:
            if request.creates:
                if made:
                    await request.forward()
                at_the_point.append(json.loads(request.body)["prompt"])
                if len(at_the_point) == len(MODES):
                    homing.kill()
                await forever()
            return await request.forward()

        await homing.start()
        await proven(homing)
        line.script = kill
        await survived(homing, kling_sandbox, line)
        assert sorted(at_the_point) == sorted(MODES)
    # Lookups found the tasks that the provider had. Homing resubmitted the others.
    assert kling_sandbox.ledger["requests"]["create"] == 1 + len(MODES)


async def test_kill_between_reply_commit_and_client_response(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The server dies three times, once for each mode."""
    answers: dict[str, str] = {}
    async with server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.start("--when", "after", "--piece", "RecordAccepted", "--nth", "2")
        await proven(homing)
        for mode in MODES:
            client = asyncio.create_task(submit(homing, mode))
            await homing.dead()
            await homing.start("--when", "after", "--piece", "RecordAccepted")
            answers[mode] = await client
        await check_against_ledger(homing, kling_sandbox, answers)
    assert kling_sandbox.ledger["requests"]["create"] == 1 + len(MODES)


async def test_second_kill_before_repeated_request_response(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The second process joins the task of the first, and dies before it answers the client."""
    async with server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.start("--when", "after", "--piece", "RecordAccepted", "--nth", "2")
        await proven(homing)
        client = asyncio.create_task(submit(homing, "neither"))
        await homing.dead()
        # It can die before it is ready, because the client already repeats its request.
        homing.begin("--when", "after", "--piece", "RecordSubmission")
        await homing.dead()
        await homing.start()
        await check_against_ledger(homing, kling_sandbox, {"neither": await client})


async def test_kill_of_homing_serve_before_reply(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    """The real command with its default delays: the task of the provider finishes by its callback."""
    sandbox = kling_sandbox_factory(callback_attempts=10)
    async with provider_proxy(sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:

        async def kill(request: Request) -> Answer | None:
            reply = await request.forward()
            if request.creates:
                homing.kill()
                await forever()
            return reply

        await homing.start(program=HOMING)
        await homing.sent(prompt="the first")
        line.script = kill
        client = asyncio.create_task(submit(homing, "external id"))
        await homing.dead()
        line.script = Request.forwarded
        await homing.start(program=HOMING)
        await check_against_ledger(homing, sandbox, {"external id": await client})


async def test_kill_before_reply_at_kind_without_lookup_makes_one_task(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    """The provider made the task and cannot be asked about it. It stays unresolved, and its callback finishes it."""
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    kind = "general/ai-multi-shot"
    async with provider_proxy(sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:

        async def kill(request: Request) -> Answer | None:
            reply = await request.forward()
            if request.method == "POST":
                homing.kill()
                await forever()
            return reply

        async def row() -> dict[str, Any]:
            [task] = await homing.tasks()
            return task

        async def unresolved() -> bool:
            return bool((await row())["reason"] == "unresolved")

        await homing.start()
        # Whatever another kind has shown, it says nothing about this one.
        homing.know_lookups(KIND, kind)
        line.script = kill
        send = partial(homing.sent, path=f"/kling/v1/{kind}", body=REQUESTS[kind], external_task_id="mine/1")
        client = asyncio.create_task(send())
        await homing.dead()
        line.script = Request.forwarded
        await homing.start()
        ours = await client
        await until(unresolved, within=60, pause=0.1)
        asked = int((await row())["poll_count"])

        async def asked_often() -> bool:
            return int((await row())["poll_count"]) >= asked + 3

        await until(asked_often, within=60, pause=0.1)
        assert await send() == ours
        [truth] = sandbox.ledger["tasks"]
        sandbox.finish(truth["id"])
        await homing.all_home()
        assert (await row())["status"] == "succeeded"
    assert sandbox.ledger["requests"]["create"] == 1


async def test_two_kills_under_many_submissions(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The kills hit twelve submissions at arbitrary points."""
    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:
        await homing.start()
        await proven(homing)
        slots = asyncio.Semaphore(4)

        async def client(number: int) -> str:
            async with slots:
                return await homing.sent(prompt=f"picture {number}", external_task_id=f"mine-{number}")

        clients = {f"picture {number}": asyncio.create_task(client(number)) for number in range(12)}
        for creates in (4, 8):

            async def so_many(creates: int = creates) -> bool:
                return line.count(lambda request: request.creates) >= creates

            await until(so_many)
            homing.kill()
            await homing.dead()
            await homing.start()
        answers = {prompt: await one for prompt, one in clients.items()}
        await check_against_ledger(homing, kling_sandbox, answers)


def test_default_delays_exceed_test_delays() -> None:
    real = Policy()
    assert real.absence_wait >= timedelta(seconds=30)
    assert real.absences >= 2
    assert real.answer_within < timedelta(seconds=20)
    assert real.attempt <= real.answer_within
    assert real.lease_margin > timedelta()
