"""Replicas on one PostgreSQL: each piece of work is done once, and the survivors take over after a crash.

Here a process counts as dead after 1.5 s without a heartbeat, and a submission has 4 s. A poll lease lasts 39 s, which
is longer than any test waits.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest

from homing.sandbox import RunningSandbox
from tests.suites.store_case import read
from tests.support.conditions import until
from tests.support.deployment import Server, forever, server
from tests.support.postgres import Postgres
from tests.support.provider_proxy import Answer, ProviderProxy, Request, provider_proxy

SandboxFactory = Callable[..., RunningSandbox]
REPLICA = ("-m", "tests.support.replica_server")
SILENT = ("--policy", "silent")
PATIENT = ("--policy", "patient")
DUE = 60
WAVE = 10
SOON = 15.0
# The identifiers that the client sends with each request.
REQUESTS: dict[str, dict[str, Any]] = {
    "made": {"external_task_id": "order-1"},
    "not made": {"external_task_id": "order-2"},
    "made and not named": {},
}


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def replicas(
    stack: AsyncExitStack, folder: Path, url: str, sandbox: RunningSandbox, count: int, *arguments: str
) -> list[tuple[Server, ProviderProxy]]:
    """Start servers, each with its own proxy to the provider. The callbacks of its tasks go to the next server."""
    made = []
    for number in range(count):
        line = await stack.enter_async_context(provider_proxy(sandbox.base_url))
        (folder / str(number)).mkdir()
        one = await stack.enter_async_context(server(folder / str(number), line.base_url, database_url=url))
        made.append((one, line))
    for number, (one, _) in enumerate(made):
        one.environ["HOMING_PUBLIC_URL"] = made[(number + 1) % count][0].url
    await asyncio.gather(*(one.start(*arguments, program=REPLICA) for one, _ in made))
    return made


def asked(lines: Sequence[ProviderProxy], sandbox: RunningSandbox) -> Counter[str]:
    """Count the polls of each task, single or in a batch, by the provider's ID or by Homing's."""
    own = {task["external_id"]: task["id"] for task in sandbox.ledger["tasks"]}
    seen: Counter[str] = Counter()
    for request in (request for line in lines for request in line.seen):
        if request.batches:
            seen.update(unquote(request.target.split("task_ids=")[1].split("&")[0]).split(","))
        elif request.asks_one:
            ref = request.target.rpartition("/")[2]
            seen.update([own.get(ref, ref)])
    return seen


def make_due(url: str, refs: Sequence[str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE tasks SET next_poll_at = created_at WHERE id = ANY(%s)", [list(refs)])


async def leased(url: str, count: int) -> None:
    async def taken() -> bool:
        [(number,)] = read(
            url, "SELECT count(*) FROM tasks WHERE lease_owner IS NOT NULL AND next_poll_at < created_at + 1"
        )
        return bool(number == count)

    await until(taken)


async def all_settled(homing: Server, count: int) -> None:
    async def settled() -> bool:
        return len([task for task in await homing.tasks() if task["status"] == "succeeded"]) == count

    await until(settled, within=SOON)


async def test_replicas_poll_each_due_task_once(
    stack: AsyncExitStack, tmp_path: Path, url: str, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(callbacks=False, run_time=0.0)
    made = await replicas(stack, tmp_path, url, sandbox, 2, *SILENT)
    refs = [await made[number % 2][0].sent(prompt=f"picture {number}") for number in range(DUE)]

    async def ended() -> bool:
        return all(task["final"] for task in sandbox.ledger["tasks"])

    await until(ended)
    for first in range(0, DUE, WAVE):
        make_due(url, refs[first : first + WAVE])
        await all_settled(made[0][0], first + WAVE)
    ids = {task["id"] for task in sandbox.ledger["tasks"]}
    assert asked([line for _, line in made], sandbox) == Counter(ids)
    assert sandbox.ledger["requests"]["create"] == DUE


async def test_killed_replica_polls_are_taken_over(
    stack: AsyncExitStack, tmp_path: Path, url: str, kling_sandbox_factory: SandboxFactory
) -> None:
    async def unanswered(request: Request) -> Answer | None:
        if not request.creates:
            await forever()
        return await request.forward()

    sandbox = kling_sandbox_factory(held=True, intermediate=False, callback_attempts=1)
    (killed, line), (survivor, other) = await replicas(stack, tmp_path, url, sandbox, 2, *PATIENT)
    refs = [await (killed, survivor)[number % 2].sent(prompt=f"picture {number}") for number in range(DUE)]
    called_back, silent = refs[:20], refs[20:]
    for ref in called_back:
        sandbox.finish(ref)

    async def acknowledged() -> bool:
        return all([each["state"] for each in sandbox.task(ref)["callbacks"]] == ["delivered"] for ref in called_back)

    await until(acknowledged)
    for ref in silent:
        sandbox.finish(ref, notify=False)
    # Stop the survivor until it counts as dead. The other server polls and waits for responses.
    line.script = unanswered
    await stopped_outside_transactions(url, survivor.lives[-1].pid)
    make_due(url, silent)
    await leased(url, len(silent))
    await until(lambda: _alone(url))
    killed.kill()
    await killed.dead()
    os.kill(survivor.lives[-1].pid, signal.SIGCONT)
    await all_settled(survivor, DUE)
    assert f"{len(silent)} of its tasks are taken over" in survivor.logged()
    sources = Counter(task["status_source"]["source"] for task in await survivor.tasks())
    assert sources == {"callback": len(called_back), "poll": len(silent)}
    assert asked([other], sandbox) == Counter(sandbox.task(ref)["id"] for ref in silent)
    assert sandbox.ledger["requests"]["create"] == DUE


async def stopped_outside_transactions(url: str, pid: int) -> None:
    """Stop a process while it holds no lock, because a stopped transaction would block the others."""
    busy = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        waiting = set(read(url, busy))
        for _ in range(5):
            await asyncio.sleep(0.1)
            waiting &= set(read(url, busy))
        if not waiting:
            return
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.05)
    raise AssertionError("the process was in a transaction each time")


async def _alone(url: str) -> bool:
    return len(read(url, "SELECT owner FROM servers")) == 1


async def test_killed_replica_submissions_are_recovered_once(
    stack: AsyncExitStack, tmp_path: Path, url: str, kling_sandbox: RunningSandbox
) -> None:
    (killed, line), (survivor, _), _ = await replicas(stack, tmp_path, url, kling_sandbox, 3)
    at_the_point: list[str] = []

    async def kill(request: Request) -> Answer | None:
        if not request.creates:
            return await request.forward()
        prompt = json.loads(request.body)["prompt"]
        if prompt != "not made":
            await request.forward()
        at_the_point.append(prompt)
        if len(at_the_point) == len(REQUESTS):
            killed.kill()
        await forever()
        return None

    # A lookup of this task shows that lookups work. Without that, Homing never resubmits by itself.
    first = await survivor.sent(prompt="the first")
    line.script = kill
    clients = [asyncio.create_task(killed.sent(prompt=label, **named)) for label, named in REQUESTS.items()]
    await killed.dead()
    for client in clients:
        client.cancel()
    answers = {label: await survivor.sent(prompt=label, **named) for label, named in REQUESTS.items()}
    await survivor.all_home()
    made = kling_sandbox.ledger["tasks"]
    rows = {task["id"]: task for task in await survivor.tasks()}
    assert {task["prompt"] for task in made} == {*answers, "the first"}
    assert rows.keys() == {*answers.values(), first}
    for task in made:
        row = rows[(answers | {"the first": first})[task["prompt"]]]
        assert row["provider_task_id"] in {task["id"], None}
    assert len(made) == kling_sandbox.ledger["requests"]["create"] == 1 + len(REQUESTS)
    assert sorted(at_the_point) == sorted(REQUESTS)
