"""Retention deletes old tasks in the background. Later callbacks about them are recorded but adopt nothing."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.reconciler.test_discovery import in_state, orphans, shared_callback_url, submit_elsewhere
from tests.support.builders import a_task, writing
from tests.support.conditions import until
from tests.support.homing_server import ANYBODY, KIND, SHORT, HomingServer, composed, homing_server, settings_of
from tests.support.receiver_server import SECRET, signed
from tracker.app import discovery_of
from tracker.errors import StoreUnavailable
from tracker.loops.discovery import DELETED
from tracker.loops.retention import STEP, Retention
from tracker.model.records import TaskFilter
from tracker.model.task import Status, Task
from tracker.service.tracker import Tracker
from tracker.storage.store import Store

SandboxFactory = Callable[..., RunningSandbox]
KEEP = timedelta(days=30)
SOON = timedelta(milliseconds=10)
MANY = 2 * STEP + 9


async def deleted(homing: HomingServer, sandbox: RunningSandbox, **changes: Any) -> tuple[str, Task]:
    """Finish a task by its callback URL, and let its retention pass. Return that URL and the task."""
    expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="order-1")
    assert expected.callback_url is not None
    theirs = submit_elsewhere(sandbox, external_task_id="order-1", callback_url=expected.callback_url, **changes)
    await homing.tracker.attach(ANYBODY, expected.task.id, theirs)
    task = await homing.seen(expected.task.id, lambda task: task.status is Status.SUCCEEDED and not task.next_poll_at)

    async def all_callbacks_arrived() -> bool:
        return bool(sandbox.ledger["callbacks"]["waiting"] == 0)

    # A later one would be about a task that is gone.
    await until(all_callbacks_arrived)
    homing.clock.ahead += KEEP + timedelta(hours=1)
    assert (await Retention(homing.tracker.store, clock=homing.tracker.clock, keep=KEEP).run_once()).tasks == 1
    assert (await homing.client.get(f"/v1/tasks/{task.id}")).status_code == 404
    return expected.callback_url, task


@asynccontextmanager
async def quiet(
    folder: Path, sandbox: RunningSandbox, **settings: Any
) -> AsyncIterator[tuple[HomingServer, str, Task]]:
    """Serve without a reconciler loop, after a task was deleted."""
    async with homing_server(folder, sandbox.base_url, **settings) as homing:
        callback_url, task = await deleted(homing, sandbox)
    async with homing_server(folder, sandbox.base_url, loops=False, **settings) as homing:
        homing.clock.ahead = KEEP + timedelta(hours=1)
        path = callback_url.partition("/callbacks")
        yield homing, homing.url + "".join(path[1:]), task


async def test_late_callback_of_deleted_task_is_noted(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with quiet(tmp_path, kling_sandbox) as (homing, callback_url, task):
        requests = dict(kling_sandbox.ledger["requests"])
        for _ in range(2):
            reply = await homing.client.post(callback_url, json={"id": task.provider_task_id, "status": "succeeded"})
            assert reply.status_code == 200
        await homing.reconciler.run_once()
        (orphan,) = await orphans(homing)
        assert (orphan["state"], orphan["why"], orphan["callbacks"]) == ("orphan", "its row is gone", 2)
        assert orphan["provider_task_id"] == task.provider_task_id
        assert (await homing.alarms())["orphan"] == 2
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []
        assert kling_sandbox.ledger["requests"] == requests


@pytest.mark.parametrize("secrets", [(), (SECRET,)], ids=["unsigned", "signed"])
async def test_late_shared_callback_adopts_nothing(
    tmp_path: Path, kling_sandbox: RunningSandbox, secrets: tuple[str, ...]
) -> None:
    async with quiet(tmp_path, kling_sandbox, kling_webhook_secrets=secrets) as (homing, _, task):
        requests = dict(kling_sandbox.ledger["requests"])
        callback_url = await shared_callback_url(homing)
        body = json.dumps({"id": task.provider_task_id, "status": "succeeded"}).encode()
        for number in range(2):
            # A signed callback triggers the lookup again, with the same result.
            headers = signed(body, *secrets, webhook_id=str(number), ago=-homing.clock.ahead) if secrets else {}
            assert (await homing.client.post(callback_url, content=body, headers=headers)).status_code == 200
            await homing.reconciler.run_once()
            assert [(orphan["state"], orphan["why"]) for orphan in await orphans(homing)] == [("orphan", DELETED)]
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []
        assert kling_sandbox.ledger["requests"] == requests


async def test_late_callback_with_only_external_id_adopts_nothing(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """The provider still knows the task and returns its ID."""
    async with quiet(tmp_path, kling_sandbox) as (homing, _, _task):
        reply = await homing.client.post(
            await shared_callback_url(homing), json={"external_id": "order-1", "status": "succeeded"}
        )
        assert reply.status_code == 200
        await homing.reconciler.run_once()
        assert [(orphan["state"], orphan["why"]) for orphan in await orphans(homing)] == [("orphan", DELETED)]
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []


async def test_list_scan_restores_no_deleted_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with quiet(tmp_path, kling_sandbox) as (homing, _, _task):
        theirs = submit_elsewhere(kling_sandbox)
        found = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (found.listed, found.adopted, found.deleted) == (2, 1, 1)
        (shown,) = (await homing.client.get("/v1/tasks")).json()["tasks"]
        assert shown["provider_task_id"] == theirs


async def test_foreign_task_is_still_adopted(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with quiet(tmp_path, kling_sandbox) as (homing, _, _task):
        theirs = submit_elsewhere(kling_sandbox)
        await homing.client.post(await shared_callback_url(homing), json={"id": theirs, "status": "processing"})
        await homing.reconciler.run_once()
        assert await in_state(homing, "adopted")


# ---- the loop


@asynccontextmanager
async def keeping(folder: Path, *, busy: timedelta = timedelta(seconds=5)) -> AsyncIterator[Tracker]:
    """Open a tracker whose database has old tasks."""
    settings = settings_of(folder, "http://127.0.0.1:9")
    store = Store(settings.database_url, busy=busy)
    async with composed(settings, policy=SHORT, store=store, loops=False) as (tracker, *_):
        long_ago = tracker.clock() - 2 * KEEP
        old = [a_task(n, status=Status.SUCCEEDED, finished_at=long_ago) for n in range(1, MANY + 1)]
        await store.apply([writing(task) for task in old])
        yield tracker


async def is_empty(tracker: Tracker) -> bool:
    return not (await tracker.store.task_pages.page(TaskFilter(), limit=1, cursor=None)).tasks


@asynccontextmanager
async def retaining(tracker: Tracker) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(Retention(tracker.store, clock=tracker.clock, keep=KEEP, idle=SOON).run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await running


async def test_retention_deletes_in_steps_and_logs_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "homing.retention")
    async with keeping(tmp_path) as tracker:
        async with retaining(tracker):
            await until(lambda: is_empty(tracker))
        lines = [record.getMessage() for record in caplog.records if record.name == "homing.retention"]
        assert lines == [f"deleted {MANY} tasks that were kept for 30 days, 0:00:00"]


async def test_undeletable_old_tasks_hide_no_others(tmp_path: Path) -> None:
    async with keeping(tmp_path) as tracker:
        older = tracker.clock() - 3 * KEEP
        stay = [a_task(n, status=Status.EXPIRED, finished_at=older, next_poll_at=older) for n in range(500, 501 + STEP)]
        await tracker.store.apply([writing(task) for task in stay])

        async def only_they_are_left() -> bool:
            page = await tracker.store.task_pages.page(TaskFilter(), limit=len(stay) + 1, cursor=None)
            return [task.id for task in page.tasks] == [task.id for task in reversed(stay)]

        async with retaining(tracker):
            await until(only_they_are_left)


async def test_late_finished_task_is_deleted_on_time(tmp_path: Path) -> None:
    async with keeping(tmp_path) as tracker, retaining(tracker):
        await until(lambda: is_empty(tracker))
        now = tracker.clock()
        young = a_task(500, status=Status.FAILED, finished_at=now - KEEP + timedelta(hours=1))
        old = a_task(501, status=Status.FAILED, finished_at=now - KEEP)
        await tracker.store.apply([writing(young), writing(old)])

        async def only_the_young_one() -> bool:
            return await tracker.store.tasks.get(old.id) is None

        await until(only_the_young_one)
        assert await tracker.store.tasks.get(young.id) is not None


async def test_retention_resumes_after_database_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def warned() -> list[str]:
        records = [record for record in caplog.records if record.name == "homing.retention"]
        return [record.getMessage() for record in records if record.levelno == logging.WARNING]

    async def logged() -> bool:
        return bool(warned())

    async with keeping(tmp_path, busy=SOON) as tracker:
        with closing(sqlite3.connect(tmp_path / "homing.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with retaining(tracker):
                await until(logged)
                # The loop retries meanwhile.
                for _ in range(5):
                    with pytest.raises(StoreUnavailable):
                        await tracker.store.ping()
                other.execute("ROLLBACK")
                await until(lambda: is_empty(tracker))
    assert warned() == ["retention cannot work: the database is locked by another process", "retention works again"]


async def test_writer_waits_for_one_deletion_step(tmp_path: Path) -> None:
    async with keeping(tmp_path) as tracker:
        retention = Retention(tracker.store, clock=tracker.clock, keep=KEEP)
        gone = 0

        async def delete() -> None:
            nonlocal gone
            while (step := await retention.run_once()).tasks:
                gone += step.tasks

        deleting = asyncio.create_task(delete())
        waited = []
        number = 1_000
        while not deleting.done():
            before = gone
            number += 1
            await tracker.store.apply([writing(a_task(number))])
            waited.append(gone - before)
        await deleting
        assert gone == MANY
        assert len(waited) > 1
        assert max(waited) <= STEP
