"""A restored backup: a repeated request with an external ID finds its task and is not charged again."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.homing_server import ANYBODY, CAT, KIND, SHORT, homing_server
from tests.support.provider_proxy import Answer, Request, provider_proxy, refusal
from tracker.app import discovery_of
from tracker.loops.retention import Retention
from tracker.model.task import Status

SandboxFactory = Callable[..., RunningSandbox]
KEEP = timedelta(hours=1)
AFTERWARDS = SHORT.answer_within + SHORT.lease_margin + SHORT.absence_wait
NAMES: dict[str, dict[str, Any]] = {
    "external id": {"external_task_id": "order-7"},
    "idempotency key": {"headers": {"idempotency-key": "key-7"}},
    "both": {"external_task_id": "order-7", "headers": {"idempotency-key": "key-7"}},
}


def made(sandbox: RunningSandbox, prompt: str) -> list[dict[str, Any]]:
    return [task for task in sandbox.ledger["tasks"] if task["prompt"] == prompt]


async def backed_up(folder: Path, sandbox: RunningSandbox) -> Path:
    """Start and stop once, and copy the database."""
    async with homing_server(folder, sandbox.base_url, callbacks=False, loops=False) as homing:
        await homing.created(prompt="the first")
    return Path(shutil.copy(folder / "homing.db", folder / "backup.db"))


def restore(folder: Path, backup: Path) -> None:
    for file in folder.glob("homing.db*"):
        file.unlink()
    shutil.copy(backup, folder / "homing.db")


@pytest.mark.parametrize("name", NAMES)
async def test_restored_backup_resent_id_charges_once(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, name: str
) -> None:
    sandbox = kling_sandbox_factory(held=True)
    backup = await backed_up(tmp_path, sandbox)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        lost = await homing.created(prompt="a dog", **NAMES[name])
    restore(tmp_path, backup)

    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        again = await homing.created(prompt="a dog", **NAMES[name])
        assert again != lost
        task = await homing.task(again)
        # Another body is not the same request.
        assert await homing.created(prompt="another dog") != again
    assert [task.provider_task_id] == [truth["id"] for truth in made(sandbox, "a dog")]


async def test_restored_backup_hidden_task_stays_unresolved(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """A gateway refuses the ID and cannot look it up. Nobody pays twice, and an alarm is raised."""
    sandbox = kling_sandbox_factory(held=True, faults={"lookup_denied": 1.0})
    backup = await backed_up(tmp_path, sandbox)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        await homing.created(prompt="a dog", external_task_id="order-7")
    restore(tmp_path, backup)

    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        again = await homing.created(prompt="a dog", external_task_id="order-7")
        for _ in range(4):
            homing.clock.ahead += AFTERWARDS
            await homing.reconciler.run_once()
        task = await homing.task(again)
        assert (task.status, task.reason) == (Status.PENDING, "unresolved")
        assert (await homing.alarms())["unresolved"] == 1
    assert len(made(sandbox, "a dog")) == 1


async def test_restored_backup_found_task_goes_to_client(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The operator scans the provider's list before the client sends its request again."""
    keys = "ops*:made-up-operator-key,studio:made-up-studio-key"
    studio = {"authorization": "Bearer made-up-studio-key"}
    sandbox = kling_sandbox_factory()
    backup = await backed_up(tmp_path, sandbox)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False, api_keys=keys) as homing:
        lost = await homing.created(prompt="a dog", external_task_id="order-7", headers=studio)
        await homing.reconcile(lambda: _is_over(sandbox, "a dog"))
        assert (await homing.task(lost)).client == "studio"
    restore(tmp_path, backup)

    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False, api_keys=keys) as homing:
        assert (await discovery_of(homing.tracker).discover("kling", KIND)).adopted == 1
        body = {"provider": "kling", "kind": KIND, "input": CAT | {"prompt": "a dog"}, "external_id": "order-7"}
        labels = {"tags": ["spring"], "metadata": {"order": "7"}}
        reply = await homing.client.post("/v1/tasks", json=body | labels, headers=studio)
        task = await homing.task(again := reply.json()["id"])
        found = await homing.client.get("/v1/tasks?tag=spring&metadata[order]=7", headers=studio)
        assert (reply.status_code, [one["id"] for one in found.json()["tasks"]]) == (200, [again])
        assert (task.client, task.external_id, task.status) == ("studio", "order-7", Status.SUCCEEDED)
        assert (task.tags, task.metadata) == (("spring",), {"order": "7"})
        assert await homing.created(prompt="a dog", external_task_id="order-7", headers=studio) == again
    assert len(made(sandbox, "a dog")) == 1


async def _is_over(sandbox: RunningSandbox, prompt: str) -> bool:
    return bool(made(sandbox, prompt)[0]["final"])


async def test_two_installations_at_one_account_never_meet(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    ours = []
    for installation in ("production", "staging"):
        folder = tmp_path / installation
        folder.mkdir()
        async with homing_server(folder, kling_sandbox.base_url, callbacks=False, loops=False) as homing:
            ours.append(await homing.task(await homing.created(prompt="a dog", external_task_id="order-7")))
    assert len({task.sent_external_id for task in ours}) == 2
    assert {task.provider_task_id for task in ours} == {truth["id"] for truth in made(kling_sandbox, "a dog")}


async def test_repeat_after_refusal_keeps_external_id(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The provider made nothing, so the ID is unused. The repeated request makes a new row with it."""
    sent: list[tuple[str, str]] = []

    async def script(request: Request) -> Answer | None:
        if request.creates and len(sent) < 3:
            return refusal(400, 1301, "no")
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        for _ in range(3):
            assert (await homing.create(external_task_id="order-7")).status_code == 400
            refused = await homing.task("order-7")
            sent.append((refused.id, refused.sent_external_id or ""))
        ours = await homing.created(external_task_id="order-7")
        sent.append((ours, (await homing.task(ours)).sent_external_id or ""))
        # A poll of a refused row does not find the task of the new one.
        polled, _ = await homing.tracker.poll(ANYBODY, refused.id)
        assert (polled.status, polled.provider_task_id, polled.next_poll_at) == (Status.REJECTED, None, None)
        assert (await homing.task("order-7")).id == ours
    assert (len({row for row, _ in sent}), len({external_id for _, external_id in sent})) == (4, 1)
    assert [task["external_id"] for task in kling_sandbox.ledger["tasks"]] == [sent[-1][1]]


async def test_refusal_after_resolution_keeps_external_id(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """A resolution by hand changes the ID once. A refusal after it does not change it again."""
    sent: list[str] = []

    async def script(request: Request) -> Answer | None:
        if request.creates and len(sent) == 1:
            return refusal(429, 1303, "full")
        return await request.forward() if sent else refusal(503, 5001)

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await homing.create(external_task_id="order-7")
        first = await homing.task("order-7")
        await homing.tracker.resolve(ANYBODY, first.id, status=Status.REJECTED)
        sent.append(first.sent_external_id or "")
        assert (await homing.create(external_task_id="order-7")).status_code == 429
        sent.append((await homing.task("order-7")).sent_external_id or "")
        sent.append((await homing.task(await homing.created(external_task_id="order-7"))).sent_external_id or "")
    assert sent[0] != sent[1] == sent[2]


@pytest.mark.parametrize(
    "first", [refusal(401, 1002, "no"), refusal(429, 1303, "full"), refusal(400, 1301, "no")], ids=["key", "busy", "no"]
)
async def test_restored_backup_refused_repeat_charges_once(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, first: Answer
) -> None:
    """After the restore, the provider refuses the first repeated request for another reason than its ID."""
    sandbox = kling_sandbox_factory(held=True)
    backup = await backed_up(tmp_path, sandbox)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        await homing.created(prompt="a dog", external_task_id="order-7")
    restore(tmp_path, backup)
    refused: list[int] = []

    async def script(request: Request) -> Answer | None:
        return first if request.creates and not refused else await request.forward()

    async with (
        provider_proxy(sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        refused.append((await homing.create(prompt="a dog", external_task_id="order-7")).status_code)
        task = await homing.task(await homing.created(prompt="a dog", external_task_id="order-7"))

    assert refused[0] >= 400
    assert [task.provider_task_id] == [truth["id"] for truth in made(sandbox, "a dog")]


async def test_id_reused_after_retention_is_a_new_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, policy=replace(SHORT, retention=KEEP)) as homing:
        first = await homing.created(prompt="a dog", external_task_id="order-7")
        await homing.seen(first, lambda task: task.status is Status.SUCCEEDED and not task.next_poll_at)
        homing.clock.ahead += 2 * KEEP
        assert (await Retention(homing.tracker.store, clock=homing.tracker.clock, keep=KEEP).run_once()).tasks == 1

        again = await homing.created(prompt="a dog", external_task_id="order-7")

        assert again != first
        assert (await homing.task(again)).provider_task_id is not None
    assert len(made(kling_sandbox, "a dog")) == 2


async def test_task_older_than_retention_is_not_adopted(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The row was deleted after its retention. A new request with the same ID must not adopt the old task."""
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        ours = await homing.created(prompt="a dog", external_task_id="order-7")
        kept = await homing.task(ours)
    with closing(sqlite3.connect(tmp_path / "homing.db")) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM tasks")
    policy = replace(SHORT, retention=AFTERWARDS)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False, policy=policy) as homing:
        homing.clock.ahead += 2 * AFTERWARDS
        again = await homing.created(prompt="a dog", external_task_id="order-7")
        task = await homing.task(again)
        assert task.sent_external_id == kept.sent_external_id
        assert (task.status, task.reason, task.provider_task_id) == (Status.PENDING, "unresolved", None)
        # The operator frees the client's ID. The next submission uses another external ID.
        await homing.tracker.resolve(ANYBODY, again, status=Status.REJECTED)
        third = await homing.created(prompt="a dog", external_task_id="order-7")
        assert (await homing.task(third)).status is Status.SUBMITTED
    assert len(made(sandbox, "a dog")) == 2
