"""Verification of lookups by external ID, and resubmission at gateways that change IDs or repeat requests."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.homing_server import KIND, SHORT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, provider_proxy, refusal
from tracker.model.changes import Change, RecordChange, Seen
from tracker.model.task import Status, Task
from tracker.service.lookups import TRUSTED_FOR

SandboxFactory = Callable[..., RunningSandbox]
# Longer than any running attempt, and longer than the delay before denials count.
AFTERWARDS = SHORT.answer_within + SHORT.lease_margin + SHORT.absence_wait


def made(sandbox: RunningSandbox, prompt: str) -> list[dict[str, Any]]:
    return [task for task in sandbox.ledger["tasks"] if task["prompt"] == prompt]


async def polled_often(homing: HomingServer, ref: str, times: int = 6) -> Task:
    """Run reconciler rounds, far apart in time, until a task was polled ``times`` more times."""
    wanted = (await homing.task(ref)).poll_count + times

    async def asked() -> bool:
        task = await homing.task(ref)
        return task.poll_count >= wanted or task.status is not Status.PENDING

    await homing.reconcile(asked, step=AFTERWARDS)
    return await homing.task(ref)


async def is_proven(homing: HomingServer) -> bool:
    return await homing.tracker.poller.lookups.proven(homing.tracker.providers["kling"], KIND)


@pytest.mark.parametrize("duplicates", ["made", "refused"])
async def test_lost_reply_at_echoing_gateway_charges_once(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, duplicates: str
) -> None:
    """A gateway echoes Homing's IDs, sends other IDs to the provider, and passes on the exact not-found text."""
    faults = {"lookup_denied": 1.0, "duplicate_made": float(duplicates == "made")}
    sandbox = kling_sandbox_factory(faults=faults, held=True, hang_for=0.0)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        first = await homing.created(prompt="the first")
        await homing.reconcile(lambda: polled(homing, first))
        sandbox.set_faults({"submit_reply_lost": 1})
        ours = await homing.created(prompt="a dog", external_task_id="mine")
        sandbox.set_faults({"submit_reply_lost": 0})

        task = await polled_often(homing, ours)

        assert (task.status, task.reason, task.attempts) == (Status.PENDING, "unresolved", 1)
        assert await homing.created(prompt="a dog", external_task_id="mine") == ours
        assert (await homing.alarms())["unresolved"] == 1
    assert len(made(sandbox, "a dog")) == 1
    assert sandbox.ledger["requests"]["create"] == 2


async def polled(homing: HomingServer, ref: str) -> bool:
    return (await homing.task(ref)).poll_count > 0


async def test_echoed_external_id_verifies_no_lookup(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Databases of earlier versions contain such rows."""
    async with homing_server(tmp_path, kling_sandbox.base_url, callbacks=False, loops=False) as homing:
        account = homing.tracker.providers["kling"]
        echoed = Seen(
            base_url=account.base_url, kind=KIND, name="lookup by external id", present=True, at=homing.clock()
        )
        work = RecordChange(Change(result=None, seen=(echoed,)))
        await homing.tracker.store.apply([work])

        assert not await is_proven(homing)


async def test_lookup_verification_runs_once_for_many_tasks(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        ours = [await homing.created(prompt=f"picture {number}") for number in range(6)]
        assert not await is_proven(homing)

        await homing.reconcile(lambda: is_proven(homing), step=timedelta(seconds=1))
        for task_id in ours:
            await homing.reconcile(partial(finished, homing, task_id), step=timedelta(seconds=1))

        lookups = line.count(lambda request: request.asks_one and request.target.rpartition("/")[2] in ours)
    assert lookups == 1


async def finished(homing: HomingServer, ref: str) -> bool:
    return (await homing.task(ref)).status is Status.SUCCEEDED


async def test_failed_lookups_are_remembered_for_a_day(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(faults={"lookup_denied": 1.0}, held=True)
    async with (
        provider_proxy(sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):

        async def poll_count(prompt: str) -> int:
            ours = await homing.created(prompt=prompt)
            await homing.reconcile(lambda: polled(homing, ours), step=timedelta(seconds=60))
            return line.count(lambda request: request.asks_one and request.target.endswith(ours))

        assert await poll_count("the first") == 1
        assert await poll_count("the second") == 0
        assert not await is_proven(homing)
        sandbox.set_faults({"lookup_denied": 0})
        homing.clock.ahead += TRUSTED_FOR
        assert await poll_count("the third") == 1
        assert await is_proven(homing)


async def test_lost_submit_verifies_lookups_by_finished_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """If every task finishes by callback, Homing polls none before the first lost submission."""
    lost = True

    async def script(request: Request) -> Answer | None:
        return None if request.creates and lost and b"a dog" in request.body else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        first = await homing.created(prompt="the first")
        assert (await homing.seen(first, lambda task: task.status is Status.SUCCEEDED)).poll_count == 0
        ours = await homing.created(prompt="a dog")
        assert not await is_proven(homing)
        lost = False

        await homing.reconcile(partial(finished, homing, ours), step=AFTERWARDS)
    assert len(made(kling_sandbox, "a dog")) == 1


@pytest.mark.parametrize("found", [True, False], ids=["found", "hidden"])
async def test_submit_repeated_by_proxy_is_looked_up(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, *, found: bool
) -> None:
    """A proxy sends the create request twice. The answer is "already exists" on the first submission."""
    sandbox = kling_sandbox_factory(held=True, faults={"lookup_denied": float(not found)})
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        await homing.created(prompt="the first")
        sandbox.set_faults({"submit_repeated": 1})
        ours = await homing.created(prompt="a dog", external_task_id="mine")
        task = await homing.task(ours) if found else await polled_often(homing, ours)

        assert await homing.created(prompt="a dog", external_task_id="mine") == ours
        if found:
            assert (task.status, task.provider_task_id) == (Status.SUBMITTED, made(sandbox, "a dog")[0]["id"])
        else:
            assert (task.status, task.reason) == (Status.PENDING, "unresolved")
            assert not await is_proven(homing)
    assert len(made(sandbox, "a dog")) == 1
    assert sandbox.ledger["requests"]["create"] == 2


async def test_taken_id_after_denials_is_never_resent(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Verified lookups denied a task that the resubmission then showed to exist."""
    creates = 0
    deny = True

    async def script(request: Request) -> Answer | None:
        nonlocal creates
        if request.creates:
            reply = await request.forward()
            if b"a dog" not in request.body:
                return reply
            creates += 1
            return None if creates == 1 else reply
        ref = request.target.rpartition("/")[2]
        if deny and request.asks_one and creates:
            return refusal(400, 1201, f"Task not found by id/external id: {ref}")
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await homing.lookups_proven()
        ours = await homing.created(prompt="a dog", external_task_id="mine")

        await homing.reconcile(lambda: sent(homing, ours, times=2), step=AFTERWARDS)
        task = await polled_often(homing, ours)
        assert (task.status, task.reason, task.attempts, creates) == (Status.PENDING, "unresolved", 2, 2)
        deny = False
        await homing.reconcile(lambda: finished(homing, ours), step=AFTERWARDS)
    assert len(made(kling_sandbox, "a dog")) == 1


async def sent(homing: HomingServer, ref: str, *, times: int) -> bool:
    task = await homing.task(ref)
    return task.attempts >= times and task.duplicate_at is not None
