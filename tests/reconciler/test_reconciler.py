"""The reconciler with a real provider over real HTTP: its polls, its limits, and its behavior on failures."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.homing_server import ANYBODY, KIND, SHORT, SILENT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, page, provider_proxy, refusal
from tracker.errors import StoreUnavailable
from tracker.model.records import TaskFilter
from tracker.model.task import SETTLED, Source, Status, Task
from tracker.rules.schedule import Policy
from tracker.service.budget import Budget
from tracker.storage.due_task_store import DueTaskStore
from tracker.storage.engine.database import Database
from tracker.storage.store import Store

SandboxFactory = Callable[..., RunningSandbox]
WEBHOOK_SECRET = "whsec_" + "bWFkZS11cC13ZWJob29rLXNlY3JldC1mb3ItdGVzdHM="
EMPTY = Answer(status=200, body=b'{"code":0,"message":"SUCCEED","request_id":"made-up","data":[]}')
DUE = timedelta(seconds=5)
PAIR = {"made-up-access": "made-up-secret-of-at-least-32-bytes!"}


def is_finished(task: Task) -> bool:
    return task.status in SETTLED


def asked_ids(request: Request) -> list[str]:
    return parse_qs(urlsplit(request.target).query)["task_ids"][0].split(",")


async def many(homing: HomingServer, count: int) -> list[str]:
    await homing.know_lookups()
    slots = asyncio.Semaphore(16)

    async def one(number: int) -> str:
        async with slots:
            return await homing.created(prompt=f"picture {number}")

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def ended(sandbox: RunningSandbox) -> None:
    """Wait until every task of the provider has ended."""

    async def all_ended() -> bool:
        return all(task["final"] for task in sandbox.ledger["tasks"])

    await until(all_ended)


async def states(homing: HomingServer, refs: list[str]) -> set[Status]:
    return {(await homing.task(ref)).status for ref in refs}


# ---- many tasks at once


async def test_hundred_stale_tasks_cost_five_requests(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 100)
        await ended(kling_sandbox)
        homing.clock.ahead = DUE
        counts = await homing.reconciler.run_once()
        assert (counts.claimed, counts.requests, counts.settled) == (100, 5, 100)
        assert await states(homing, ours) == {Status.SUCCEEDED}
        assert [len(asked_ids(request)) for request in line.seen if request.batches] == [20] * 5
        assert line.count(lambda request: request.asks_one) == 0
        assert (await homing.reconciler.run_once()).claimed == 0


async def test_task_absent_from_batch_is_polled_alone(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Homing polls a task alone if a batch omits it. The omission changes no task."""

    async def script(request: Request) -> Answer | None:
        return EMPTY if request.batches else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 3)
        await ended(kling_sandbox)
        homing.clock.ahead = DUE
        counts = await homing.reconciler.run_once()
        assert (counts.requests, counts.settled, counts.failed) == (4, 3, 0)
        assert await states(homing, ours) == {Status.SUCCEEDED}


async def test_denied_known_task_keeps_its_status(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """If a known task is "not found", it keeps its status until a trusted report arrives."""
    denying = True

    async def script(request: Request) -> Answer | None:
        if denying and request.asks_one:
            return refusal(400, 1201, f"Task not found by id/external id: {request.target.rpartition('/')[2]}")
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        ours = await homing.created()
        await ended(kling_sandbox)
        for _ in range(5):
            homing.clock.ahead += DUE
            await homing.reconciler.run_once()
        task = await homing.task(ours)
        assert (task.status, task.poll_count, task.attempts) == (Status.SUBMITTED, 5, 1)
        denying = False
        homing.clock.ahead += DUE
        await homing.reconciler.run_once()
        assert (await homing.task(ours)).status is Status.SUCCEEDED
    assert kling_sandbox.ledger["requests"]["create"] == 1


async def test_key_pair_refused_on_batch_path_is_no_alarm(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(access_keys=PAIR)
    keys: dict[str, Any] = {"kling_access_key": "made-up-access", "kling_secret_key": PAIR["made-up-access"]}
    async with homing_server(
        tmp_path, sandbox.base_url, callbacks=False, loops=False, kling_api_key=None, **keys
    ) as homing:
        ours = await many(homing, 3)

        async def all_due() -> bool:
            plans = [(await homing.task(ref)).next_poll_at for ref in ours]
            return all(plan is not None and plan <= homing.clock() for plan in plans)

        # The clock stays as it is, because tokens signed at a moved time would not be valid yet.
        await ended(sandbox)
        await until(all_due)
        counts = await homing.reconciler.run_once()
        assert (counts.requests, counts.settled) == (4, 3)
        assert "credential" not in await homing.alarms()
        ours = await many(homing, 2)
        await ended(sandbox)
        await until(all_due)
        counts = await homing.reconciler.run_once()
        assert (counts.requests, counts.settled) == (2, 2)
    # Homing does not immediately retry a feature that the provider lacked.
    assert sandbox.ledger["requests"]["batch"] == 1


async def test_submitting_task_lease_is_released_early(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The reconciler's lease is minutes longer than a submission. The reconciler releases it early."""
    looked_up, answering = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> Answer | None:
        if request.creates:
            return refusal(503, 5001)
        looked_up.set()
        await answering.wait()
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        client = asyncio.create_task(homing.created())
        await asyncio.wait_for(looked_up.wait(), 60)
        homing.clock.ahead = timedelta(seconds=1)
        counts = await homing.reconciler.run_once()
        assert (counts.claimed, counts.postponed, counts.requests) == (1, 1, 0)
        (task,) = (await homing.tracker.find(TaskFilter(), client=ANYBODY)).tasks
        assert task.lease_owner is None
        assert task.next_poll_at is not None
        assert task.next_poll_at <= homing.clock() + SHORT.first_lookup
        answering.set()
        await client


# ---- the polling budget


def test_budget_starts_at_a_quarter_and_refills() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    budget = Budget(120, now)
    taken = 0
    while budget.take(now) is None:
        taken += 1
    assert taken == 30
    wait = budget.take(now)
    assert wait is not None
    assert timedelta() < wait <= timedelta(seconds=0.5)
    assert budget.take(now + timedelta(seconds=0.6)) is None
    assert budget.take(now + timedelta(seconds=0.6)) is not None


async def test_budget_limits_polls_without_losing_any(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(reseller=True)
    policy = replace(SHORT, budget=20)
    async with (
        provider_proxy(sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 12)
        await ended(sandbox)
        homing.clock.ahead = DUE
        counts = await homing.reconciler.run_once()
        assert counts.postponed >= 6
        assert line.count(lambda request: not request.creates) <= 6
        poll_counts = [(await homing.task(ref)).poll_count for ref in ours]
        assert sum(poll_counts) <= 6

        async def all_finished() -> bool:
            return await states(homing, ours) == {Status.SUCCEEDED}

        await homing.reconcile(all_finished, step=timedelta(seconds=2))
    assert line.count(lambda request: request.asks_one) == 12


@pytest.mark.parametrize(("number", "code"), [(1, 1302), (1, 1303), (3, 1302), (3, 1303)])
async def test_retry_after_is_kept_for_poll_and_batch(
    tmp_path: Path, kling_sandbox: RunningSandbox, number: int, code: int
) -> None:
    answers = [refusal(429, code, retry_after="30")]

    async def script(request: Request) -> Answer | None:
        return answers.pop() if answers and not request.creates else await request.forward()

    # A Retry-After is respected up to the maximum interval between two polls.
    policy = replace(SHORT, greatest_gap=Policy().greatest_gap)
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, number)
        await ended(kling_sandbox)
        homing.clock.ahead = DUE
        for _ in range(5):
            await homing.reconciler.run_once()
            homing.clock.ahead += timedelta(seconds=5)
        assert line.count(lambda request: not request.creates) == 1
        homing.clock.ahead += timedelta(seconds=10)
        await homing.reconciler.run_once()
        assert await states(homing, ours) == {Status.SUCCEEDED}
        assert line.count(lambda request: not request.creates) == 2


async def test_twenty_unverified_callbacks_cost_one_poll(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True, intermediate=False, webhook_secrets=(WEBHOOK_SECRET,))
    usual = {
        name: getattr(Policy(), name) for name in ("least_gap", "greatest_gap", "early_poll_delay", "early_poll_gap")
    }
    policy = replace(SILENT, **usual | {"least_gap": timedelta(minutes=5)})
    signed = (WEBHOOK_SECRET,)
    async with homing_server(
        tmp_path, sandbox.base_url, policy=policy, loops=False, kling_webhook_secrets=signed
    ) as homing:
        ours = await homing.created()
        # Ten callbacks before the poll, ten after it: within the minimum interval between scheduled polls.
        for first in (0, 10):
            for number in range(first, first + 10):
                sandbox.callback(ours, status="succeed", seal="none", changes={"number": number})
            await until(partial(_received, homing, ours, first + 10))
            assert (await homing.task(ours)).poll_count == bool(first)
            for _ in range(8):
                homing.clock.ahead += timedelta(seconds=0.25)
                await homing.reconciler.run_once()
        task = await homing.task(ours)
        # The provider reports "submitted". Twenty unverified callbacks with "succeed" changed nothing.
        assert (task.status, task.poll_count) == (Status.SUBMITTED, 1)


async def _received(homing: HomingServer, ref: str, times: int) -> bool:
    _, entries = await homing.tracker.history(ANYBODY, ref)
    return sum(1 + entry.repeats for entry in entries if entry.source is Source.CALLBACK) >= times


async def test_unchanged_answer_adds_no_history(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, callbacks=False, loops=False) as homing:
        ours = await homing.created()
        before, entries = await homing.tracker.history(ANYBODY, ours)

        async def asked_often() -> bool:
            return (await homing.task(ours)).poll_count >= 6

        await homing.reconcile(asked_often, step=DUE)
        after, later = await homing.tracker.history(ANYBODY, ours)
    assert [entry.id for entry in later] == [entry.id for entry in entries]
    assert after.version == before.version


# ---- failures that stop nothing else


async def test_outage_and_poison_task_harm_no_other_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """First every request fails, then every answer for one task is invalid. The other tasks finish."""
    out = True
    poisoned = ""

    async def script(request: Request) -> Answer | None:
        if request.creates:
            return await request.forward()
        if out:
            return None
        if poisoned in request.target:
            return page(200, '{"code":0,"data":{"task_id":["' + "[" * 500)
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 4)
        await ended(kling_sandbox)
        for _ in range(3):
            homing.clock.ahead += DUE
            await homing.reconciler.run_once()
        assert await states(homing, ours) == {Status.SUBMITTED}
        out = False
        poisoned = kling_sandbox.task(ours[0])["id"]

        async def others_finished() -> bool:
            return await states(homing, ours[1:]) == {Status.SUCCEEDED}

        await homing.reconcile(others_finished, step=DUE)
        assert await states(homing, ours[:1]) == {Status.SUBMITTED}
        poisoned = "nobody"
        homing.clock.ahead += timedelta(minutes=1)
        await homing.reconciler.run_once()
        assert await states(homing, ours) == {Status.SUCCEEDED}


async def test_refused_credential_pauses_polls_then_resumes(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    refusing = True

    async def script(request: Request) -> Answer | None:
        if refusing and not request.creates:
            return refusal(401, 1004, "Authorization has expired")
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        # One refusal may concern one task. Several mean that the credential is invalid.
        ours = await many(homing, 3)
        await ended(kling_sandbox)
        homing.clock.ahead = DUE
        await homing.reconciler.run_once()
        requests = len(line.seen)
        assert (await homing.alarms())["credential"] >= 1
        # Submissions continue meanwhile. Homing does not poll the account.
        ours.append(await homing.created())
        homing.clock.ahead += DUE
        await homing.reconciler.run_once()
        assert len(line.seen) == requests + 1
        refusing = False
        homing.clock.ahead += timedelta(minutes=2)

        async def all_finished() -> bool:
            return await states(homing, ours) == {Status.SUCCEEDED}

        await homing.reconcile(all_finished, step=DUE)


class FlakyDueTasks(DueTaskStore):
    """A store that fails two rounds of the loop: with an expected error and with an unexpected one."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.errors: list[Exception] = [StoreUnavailable("the disk is full"), RuntimeError("nobody expected this")]

    async def acquire(self, *, now: datetime, limit: int, owner: str, lease: timedelta) -> Sequence[Task]:
        if self.errors:
            raise self.errors.pop()
        return await super().acquire(now=now, limit=limit, owner=owner, lease=lease)


class FlakyStore(Store):
    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.due_tasks = self.flaky = FlakyDueTasks(self._database)


async def test_loop_continues_after_failed_rounds(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    store = FlakyStore(sqlite_url(tmp_path))
    async with homing_server(tmp_path, kling_sandbox.base_url, callbacks=False, store=store) as homing:
        ours = await homing.created()
        assert (await homing.settled(ours)).status is Status.SUCCEEDED
    assert store.flaky.errors == []


# ---- final statuses


async def test_expired_task_accepts_later_success(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    async with homing_server(tmp_path, sandbox.base_url, loops=False) as homing:
        by_callback, by_poll = await many(homing, 2)
        homing.clock.ahead = timedelta(hours=24, seconds=10)
        counts = await homing.reconciler.run_once()
        assert counts.expired == 2
        expired = await homing.task(by_poll)
        assert (expired.status, expired.finished_at is not None) == (Status.EXPIRED, True)
        assert expired.next_poll_at is not None
        assert expired.next_poll_at - homing.clock() > timedelta(hours=23)
        sandbox.finish(by_callback)
        await homing.seen(by_callback, lambda task: task.status is Status.SUCCEEDED)
        sandbox.finish(by_poll, notify=False)
        homing.clock.ahead += timedelta(days=1)
        await homing.reconciler.run_once()
        assert (await homing.task(by_poll)).status is Status.SUCCEEDED


@pytest.mark.parametrize("rejected", [False, True], ids=["expired", "rejected"])
async def test_ended_task_without_id_is_not_due(
    tmp_path: Path, kling_sandbox: RunningSandbox, *, rejected: bool
) -> None:
    """Only its callback could name the task. Nothing is left to poll, so it must not be due in each round."""
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        task = (await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND)).task
        if rejected:
            await homing.tracker.resolve(ANYBODY, task.id, status=Status.REJECTED)
            await homing.tracker.poll(ANYBODY, task.id)
        homing.clock.ahead += timedelta(days=3)
        await homing.reconciler.run_once()
        counts = await homing.reconciler.run_once()

        ended = await homing.task(task.id)
        assert (ended.status, ended.next_poll_at) == (Status.REJECTED if rejected else Status.EXPIRED, None)
        assert counts.claimed == 0


async def test_client_may_set_a_shorter_deadline(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, loops=False) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, deadline=timedelta(minutes=1))
        homing.clock.ahead = timedelta(minutes=1, seconds=5)

        async def expired() -> bool:
            return (await homing.task(expected.task.id)).status is Status.EXPIRED

        await homing.reconcile(expired, step=timedelta(minutes=1))


async def test_success_without_assets_is_completed(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_empty_result": 1.0})
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT) as homing:
        ours = await homing.created()
        await homing.seen(ours, is_finished)
        shown: dict[str, Any] = {}

        async def complete() -> bool:
            shown.update((await homing.client.get(f"/v1/tasks/{ours}")).json())
            return bool(shown["result"]["assets"])

        await until(complete)
        _, entries = await homing.tracker.history(ANYBODY, ours)
    assert [asset["url"] for asset in shown["result"]["assets"]] == sandbox.task(ours)["result_urls"]
    assert [entry.verdict.value for entry in entries][-2:] == ["applied", "completed"]


async def test_restart_keeps_all_state(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The rows hold all state: delays, unresolved submissions, unverified callbacks and orphan callbacks."""
    sandbox = kling_sandbox_factory(held=True)

    async def script(request: Request) -> Answer | None:
        reply = await request.forward()
        return None if request.creates and b"lost" in request.body else reply

    async with provider_proxy(sandbox.base_url, script) as line:
        async with homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing:
            ours = await many(homing, 3)
            ours.append(await homing.created(prompt="lost"))
            plans = [(await homing.task(ref)).next_poll_at for ref in ours]
        async with homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing:
            assert [(await homing.task(ref)).next_poll_at for ref in ours] == plans
            for ref in ours:
                sandbox.finish(ref)
            homing.clock.ahead = DUE

            async def all_finished() -> bool:
                return await states(homing, ours) == {Status.SUCCEEDED}

            await homing.reconcile(all_finished, step=DUE)
    assert len(sandbox.ledger["tasks"]) == 4


# ---- false callbacks


async def test_contradictory_forged_callbacks_change_nothing(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    faults = {"callback_contradictory": 0.6, "callback_forged": 0.6, "callback_replayed": 0.6, "callback_doubled": 0.5}
    sandbox = kling_sandbox_factory(
        seed=11, faults=faults, webhook_secrets=(WEBHOOK_SECRET,), failure_rate=0.4, run_time=0.3
    )
    policy = replace(SILENT, greatest_gap=timedelta(milliseconds=500))
    async with homing_server(
        tmp_path, sandbox.base_url, policy=policy, kling_webhook_secrets=(WEBHOOK_SECRET,)
    ) as homing:
        ours = await many(homing, 16)
        await ended(sandbox)

        async def quiet() -> bool:
            return sandbox.ledger["callbacks"]["waiting"] == 0 and all(
                [await _at_rest(homing, ref) for ref in ours],
            )

        await until(quiet, within=30)
        truth = {"succeed": Status.SUCCEEDED, "failed": Status.FAILED}
        ledger = sandbox.ledger
        wrong = []
        for row in ledger["tasks"]:
            task = await homing.task(row["external_id"])
            if task.status is not truth[row["status"]] or task.provider_task_id != row["id"]:
                wrong.append(row["id"])
        assert wrong == []
        assert ledger["callbacks"]["forgeries_sent"] > 0
        assert ledger["callbacks"]["replays_sent"] > 0
        assert ledger["callbacks"]["by_kind"]["contradictory"] > 0
        alarms = await homing.alarms()
    assert {"contradiction", "mismatch", "bad_signature"} <= alarms.keys()


async def _at_rest(homing: HomingServer, ref: str) -> bool:
    task = await homing.task(ref)
    return task.status in SETTLED and task.next_poll_at is None
