"""SIGKILL at named points of a callback: what was acknowledged is kept, what was not is sent again and counted once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from homing.sandbox import RunningSandbox
from tests.support.deployment import Server, server
from tests.support.homing_server import until

SandboxFactory = Callable[..., RunningSandbox]
TASKS = 4


@pytest.fixture
def sandbox(kling_sandbox_factory: SandboxFactory) -> RunningSandbox:
    """Start a provider whose tasks end on a word of ours, and that sends a callback again for as long as it takes."""
    return kling_sandbox_factory(held=True, intermediate=False, callback_attempts=10, callback_backoff=0.1)


async def acknowledged(sandbox: RunningSandbox, ref: str) -> bool:
    return [delivery["state"] for delivery in sandbox.task(ref)["callbacks"]] == ["delivered"]


async def outlived(homing: Server, sandbox: RunningSandbox) -> list[int]:
    """End four tasks at a server that dies at the second callback; give how often each callback came too much."""
    ours = [await homing.sent(prompt=f"picture {number}") for number in range(TASKS)]
    sandbox.finish(ours[0])
    await until(lambda: acknowledged(sandbox, ours[0]))
    for ref in ours[1:]:
        sandbox.finish(ref)
    await homing.dead()
    await homing.start("--policy", "silent")
    # The provider has its acknowledgement of this one and will not send it again.
    assert {task["id"]: task["status"] for task in await homing.tasks()}[ours[0]] == "succeeded"
    await homing.all_home()

    async def all_acknowledged() -> bool:
        return all([await acknowledged(sandbox, ref) for ref in ours])

    await until(all_acknowledged)
    # Nobody asked: all that is known came by callback.
    assert (sandbox.ledger["requests"]["single"], sandbox.ledger["requests"]["batch"]) == (0, 0)
    told = [await homing.history(ref) for ref in ours]
    heard = [[entry for entry in entries if entry["source"] == "callback"] for entries in told]
    assert [[entry["verdict"] for entry in entries] for entries in heard] == [["applied"]] * TASKS
    return [entries[0]["repeats"] for entries in heard]


async def test_killed_between_the_commit_and_the_answer(tmp_path: Path, sandbox: RunningSandbox) -> None:
    async with server(tmp_path, sandbox.base_url) as homing:
        await homing.start("--policy", "silent", "--when", "after", "--piece", "RecordCallback", "--nth", "2")
        repeats = await outlived(homing, sandbox)
    # At least the one that was committed and not answered came again, and was recognised.
    assert sum(repeats) >= 1


async def test_killed_before_the_commit(tmp_path: Path, sandbox: RunningSandbox) -> None:
    async with server(tmp_path, sandbox.base_url) as homing:
        await homing.start("--policy", "silent", "--when", "before", "--piece", "RecordCallback", "--nth", "2")
        repeats = await outlived(homing, sandbox)
    assert repeats == [0] * TASKS
