"""SIGKILL at named points of a callback: acknowledged callbacks are kept, and repeated ones count once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.deployment import Server, server

SandboxFactory = Callable[..., RunningSandbox]
TASKS = 4


@pytest.fixture
def sandbox(kling_sandbox_factory: SandboxFactory) -> RunningSandbox:
    """Return a sandbox whose tasks finish when the test says so, and that retries callbacks long enough."""
    return kling_sandbox_factory(held=True, intermediate=False, callback_attempts=10, callback_backoff=0.1)


async def acknowledged(sandbox: RunningSandbox, ref: str) -> bool:
    return [delivery["state"] for delivery in sandbox.task(ref)["callbacks"]] == ["delivered"]


async def outlived(homing: Server, sandbox: RunningSandbox) -> list[int]:
    """Finish four tasks at a server that dies at the second callback. Return how often each callback was repeated."""
    ours = [await homing.sent(prompt=f"picture {number}") for number in range(TASKS)]
    sandbox.finish(ours[0])
    await until(lambda: acknowledged(sandbox, ours[0]))
    for ref in ours[1:]:
        sandbox.finish(ref)
    await homing.dead()
    await homing.start("--policy", "silent")
    # This callback was acknowledged, so the provider does not send it again.
    assert {task["id"]: task["status"] for task in await homing.tasks()}[ours[0]] == "succeeded"
    await homing.all_home()

    async def all_acknowledged() -> bool:
        return all([await acknowledged(sandbox, ref) for ref in ours])

    await until(all_acknowledged)
    # Homing sent no poll, so every status came by callback.
    assert (sandbox.ledger["requests"]["single"], sandbox.ledger["requests"]["batch"]) == (0, 0)
    histories = [await homing.history(ref) for ref in ours]
    heard = [[entry for entry in entries if entry["source"] == "callback"] for entries in histories]
    assert [[entry["verdict"] for entry in entries] for entries in heard] == [["applied"]] * TASKS
    return [entries[0]["repeats"] for entries in heard]


async def test_kill_between_commit_and_response(tmp_path: Path, sandbox: RunningSandbox) -> None:
    async with server(tmp_path, sandbox.base_url) as homing:
        await homing.start("--policy", "silent", "--when", "after", "--piece", "RecordCallback", "--nth", "2")
        repeats = await outlived(homing, sandbox)
    # At least the committed callback without a response was repeated, and Homing recognized it.
    assert sum(repeats) >= 1


async def test_kill_before_commit(tmp_path: Path, sandbox: RunningSandbox) -> None:
    async with server(tmp_path, sandbox.base_url) as homing:
        await homing.start("--policy", "silent", "--when", "before", "--piece", "RecordCallback", "--nth", "2")
        repeats = await outlived(homing, sandbox)
    assert repeats == [0] * TASKS
