"""SIGKILL at named points of a submit: real processes, a real provider, and clients that send again.

Each wish ends as one task in the provider's ledger, whatever was known or not when the process died, and whether its
client names it with its own id, with an idempotency key, or not at all.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.deployment import HOMING, Server, forever, server
from tests.support.homing_server import until
from tests.support.provider_proxy import Answer, ProviderProxy, Request, provider_proxy
from tracker.rules.schedule import Policy

MODES = ("external id", "idempotency key", "neither")


def wish(homing: Server, mode: str) -> Coroutine[Any, Any, str]:
    """Send one wish again and again, as its client names it."""
    match mode:
        case "external id":
            return homing.sent(prompt=mode, external_task_id="mine/1")
        case "idempotency key":
            return homing.sent(prompt=mode, headers={"idempotency-key": "key-1"})
        case _:
            return homing.sent(prompt=mode)


async def proven(homing: Server) -> None:
    """Submit a first task, and make known that lookups work: else no submit would ever be repeated by itself."""
    await homing.sent(prompt="the first")
    homing.know_lookups()


async def told_the_truth(homing: Server, sandbox: RunningSandbox, answers: dict[str, str]) -> None:
    """Check our table against the ledger, once everything is home: no wish lost, doubled or wrong."""
    await homing.all_home()
    words = {"succeed": "succeeded", "failed": "failed"}
    rows = {task["id"]: task for task in await homing.tasks()}
    ledger = sandbox.ledger["tasks"]
    assert sorted(task["prompt"] for task in ledger) == sorted(["the first", *answers])
    # What its client names goes out under an id that follows from the name, everything else under our own.
    ours = [answers.get(truth["prompt"], truth["external_id"]) for truth in ledger]
    assert set(ours) == rows.keys()
    for task_id, truth in zip(ours, ledger, strict=True):
        row = rows[task_id]
        assert row["status"] == words[truth["status"]]
        # It is learned from an answer of the provider, never from a callback.
        assert row["provider_task_id"] in {truth["id"], None}
        assert [asset["url"] for asset in row["result"]["assets"]] == truth["result_urls"]


async def survived(homing: Server, sandbox: RunningSandbox, line: ProviderProxy) -> None:
    """Send the wishes to a server that will be killed, start it again, and judge."""
    clients = {mode: asyncio.create_task(wish(homing, mode)) for mode in MODES}
    await homing.dead()
    line.script = Request.forwarded
    await homing.start()
    answers = {mode: await client for mode, client in clients.items()}
    await told_the_truth(homing, sandbox, answers)


async def test_killed_before_an_intent_is_written(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with provider_proxy(kling_sandbox.base_url) as line, server(tmp_path, line.base_url) as homing:
        await homing.start("--when", "before", "--piece", "RecordSubmission", "--nth", "2")
        await proven(homing)
        await survived(homing, kling_sandbox, line)


async def test_killed_between_the_intent_and_the_submit(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
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
async def test_killed_between_the_submit_and_its_reply(
    tmp_path: Path, kling_sandbox: RunningSandbox, *, made: bool
) -> None:
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
    # What the provider had was found by asking; what it never had was sent once more.
    assert kling_sandbox.ledger["requests"]["create"] == 1 + len(MODES)


async def test_killed_between_the_replys_commit_and_the_clients_answer(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """Three deaths, one for each way to name a wish."""
    answers: dict[str, str] = {}
    async with server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.start("--when", "after", "--piece", "RecordAccepted", "--nth", "2")
        await proven(homing)
        for mode in MODES:
            client = asyncio.create_task(wish(homing, mode))
            await homing.dead()
            await homing.start("--when", "after", "--piece", "RecordAccepted")
            answers[mode] = await client
        await told_the_truth(homing, kling_sandbox, answers)
    assert kling_sandbox.ledger["requests"]["create"] == 1 + len(MODES)


async def test_killed_again_before_the_re_sent_one_is_answered(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The second process joins the first one's task and dies before it can tell its client."""
    async with server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.start("--when", "after", "--piece", "RecordAccepted", "--nth", "2")
        await proven(homing)
        client = asyncio.create_task(wish(homing, "neither"))
        await homing.dead()
        # It may die before we see it answer: the client knocks already.
        homing.begin("--when", "after", "--piece", "RecordSubmission")
        await homing.dead()
        await homing.start()
        await told_the_truth(homing, kling_sandbox, {"neither": await client})


async def test_homing_serve_itself_is_killed_with_the_reply_on_its_way(
    tmp_path: Path, kling_sandbox_factory: Callable[..., RunningSandbox]
) -> None:
    """The command as it is, with its real delays: what the provider made comes home by its callback."""
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
        client = asyncio.create_task(wish(homing, "external id"))
        await homing.dead()
        line.script = Request.forwarded
        await homing.start(program=HOMING)
        await told_the_truth(homing, sandbox, {"external id": await client})


async def test_killed_twice_in_the_middle_of_everything(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Wherever each of a dozen submits happens to be."""
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
        await told_the_truth(homing, kling_sandbox, answers)


def test_the_delays_that_are_shortened_here_are_long_enough_there() -> None:
    real = Policy()
    assert real.absence_wait >= timedelta(seconds=30)
    assert real.absences >= 2
    assert real.answer_within < timedelta(seconds=20)
    assert real.attempt <= real.answer_within
    assert real.lease_margin > timedelta()
