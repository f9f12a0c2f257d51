"""Many due tasks of one account are answered from the provider's list, over real HTTP with the sandbox."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.reconciler.test_reconciler import DUE, PAIR, ended, many, states
from tests.support.conditions import until
from tests.support.homing_server import ANYBODY, KIND, SHORT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, page, provider_proxy, refusal
from tracker.loops.reconciler import PAGES_PER_ROUND, Counts
from tracker.model.records import TaskFilter
from tracker.model.task import Status, Task
from tracker.rules.list_reading import POOR_PAGES

SandboxFactory = Callable[..., RunningSandbox]
Entries = list[dict[str, Any]]
LISTING = replace(SHORT, lists_above=30)
PAGE = 50
MANY = 120


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.providers.kling.PAGE", PAGE)


def lists(request: Request) -> bool:
    return "pageNum=" in request.target or (request.method == "POST" and request.target == "/tasks")


def changed(answer: Answer, change: Callable[[Entries], Entries]) -> Answer:
    """Return a page of a list with other entries."""
    body = json.loads(answer.body)
    body["data"] = change(body["data"])
    return replace(answer, body=json.dumps(body).encode())


async def all_tasks(homing: HomingServer) -> Sequence[Task]:
    return (await homing.tracker.find(TaskFilter(), client=ANYBODY, limit=200)).tasks


async def rounds(homing: HomingServer, number: int) -> list[Counts]:
    """Do rounds some seconds apart, so that each can count the due tasks."""
    found = []
    for _ in range(number):
        homing.clock.ahead += DUE
        found.append(await homing.reconciler.run_once())
    return found


async def test_many_stale_tasks_cost_two_pages_and_a_batch(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, policy=LISTING, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, MANY)
        await ended(kling_sandbox)

        (counts,) = await rounds(homing, 1)

        assert (counts.list_pages, counts.requests, counts.settled) == (2, 3, MANY)
        assert await states(homing, ours) == {Status.SUCCEEDED}
        assert [line.count(each) for each in (lists, lambda request: request.batches)] == [2, 1]
        tasks = await all_tasks(homing)
        assert {(task.poll_count, task.lease_owner) for task in tasks} == {(1, None)}


async def test_shared_list_answers_tasks_of_several_kinds(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """No own list of a kind helps, because each kind has only a few due tasks."""
    kinds = ("images/omni-image", "images/generations", "videos/text2video", "audio/text-to-audio")
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, policy=LISTING, callbacks=False, loops=False) as homing,
    ):
        for number in range(40):
            body = {"prompt": f"a cat {number}", "duration": 5}
            reply = await homing.client.post(f"/kling/v1/{kinds[number % len(kinds)]}", json=body)
            assert reply.status_code == 200, reply.text
        await ended(kling_sandbox)

        (counts,) = await rounds(homing, 1)

        assert (counts.list_pages, counts.requests, counts.settled) == (1, 1, 40)
        assert [(request.method, request.target) for request in line.seen[40:]] == [("POST", "/tasks")]


async def test_key_pair_reads_only_the_lists_that_take_it(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(access_keys=PAIR)
    keys: dict[str, Any] = {"kling_access_key": "made-up-access", "kling_secret_key": PAIR["made-up-access"]}
    policy = replace(LISTING, lists_above=5)
    async with (
        provider_proxy(sandbox.base_url) as line,
        homing_server(
            tmp_path, line.base_url, policy=policy, callbacks=False, loops=False, kling_api_key=None, **keys
        ) as homing,
    ):
        ours = await many(homing, 30)
        await ended(sandbox)

        async def all_due() -> bool:
            plans = [task.next_poll_at for task in await all_tasks(homing)]
            return all(plan is not None and plan <= homing.clock() for plan in plans)

        # The clock stays as it is, because tokens signed at a moved time would not be valid yet.
        await until(all_due)
        counts = await homing.reconciler.run_once()

        assert (counts.list_pages, counts.settled) == (1, 30)
        assert await states(homing, ours) == {Status.SUCCEEDED}
        targets = {request.target for request in line.seen if lists(request)}
        assert targets == {f"/v1/images/omni-image?pageNum=1&pageSize={PAGE}"}
        assert "credential" not in await homing.alarms()


@pytest.mark.parametrize(
    ("answer", "is_missing"),
    [(refusal(404, 1203), True), (page(200), True), (refusal(500, 5000), False), (refusal(400, 1201), False)],
    ids=["no path", "web page", "broken", "refused"],
)
async def test_failed_page_leaves_its_tasks_to_batches(
    tmp_path: Path, kling_sandbox: RunningSandbox, answer: Answer, *, is_missing: bool
) -> None:
    async def script(request: Request) -> Answer | None:
        return answer if lists(request) else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=LISTING, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 50)
        await ended(kling_sandbox)

        (counts,) = await rounds(homing, 1)

        assert (counts.list_pages, counts.settled, counts.failed) == (1, 50, 0)
        assert await states(homing, ours) == {Status.SUCCEEDED}
        assert [line.count(each) for each in (lists, lambda request: request.batches)] == [1, 3]
        # Homing does not soon ask again for a list that the URL does not offer.
        assert await homing.tracker.poller.lists(homing.tracker.providers["kling"], KIND) is not is_missing


async def test_busy_list_pauses_the_account(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        return refusal(429, 1302, retry_after="30") if lists(request) else await request.forward()

    policy = replace(LISTING, greatest_gap=timedelta(minutes=10))
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 60)
        await ended(kling_sandbox)

        await rounds(homing, 6)

        assert line.count(lambda request: not request.creates) == 1
        homing.clock.ahead += timedelta(seconds=10)
        await homing.reconcile(lambda: finished(homing, ours), step=DUE)


async def finished(homing: HomingServer, ours: list[str]) -> bool:
    return await states(homing, ours) == {Status.SUCCEEDED}


async def test_list_that_repeats_for_ever_is_given_up(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Every page is the first one, so only its tasks are answered, and batches poll the rest."""

    async def script(request: Request) -> Answer | None:
        if not lists(request):
            return await request.forward()
        first.append(await request.forward())
        return first[0]

    first: list[Answer] = []
    policy = replace(LISTING, budget=240)
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, MANY + 60)
        await ended(kling_sandbox)

        found = await rounds(homing, 1)
        assert found[0].list_pages == PAGES_PER_ROUND
        await homing.reconcile(lambda: finished(homing, ours), step=DUE)

        assert line.count(lists) <= 1 + POOR_PAGES
        assert line.count(lambda request: request.asks_one) == 0


async def test_hostile_entries_change_no_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Entries of others, of a task under another ID, and contradictory ones answer nothing."""
    unanswered: set[str] = set()

    def change(entries: Entries) -> Entries:
        if entries:
            renamed, doubled, dropped, *others = entries
            unanswered.update(entry["task_id"] for entry in (renamed, doubled, dropped))
            failed = {"task_status": "failed", "task_status_msg": "a lie", "task_result": {}}
            foreign = others[0] | failed | {"task_id": "of-another-account", "task_info": {}}
            entries = [foreign, renamed | failed | {"task_id": "another-id"}, doubled, doubled | failed, *others, {}]
        return entries

    async def script(request: Request) -> Answer | None:
        answer = await request.forward()
        if lists(request):
            return changed(answer, change)
        # No other query is answered, so the list alone decides.
        return Answer(status=500, body=b"") if not request.creates else answer

    async with (
        provider_proxy(kling_sandbox.base_url, script),
        homing_server(tmp_path, kling_sandbox.base_url, callbacks=False, loops=False) as submitting,
    ):
        ours = await many(submitting, 40)
        await ended(kling_sandbox)

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=LISTING, callbacks=False, loops=False) as homing,
    ):
        (counts,) = await rounds(homing, 1)

        tasks = await all_tasks(homing)
        left = [task for task in tasks if task.status is not Status.SUCCEEDED]
        assert (len(tasks), counts.settled) == (len(ours), len(ours) - 3)
        assert {task.provider_task_id for task in left} == unanswered
        assert {(task.status, len(task.facts)) for task in left} == {(Status.SUBMITTED, 0)}
        assert {task.lease_owner for task in tasks} == {None}
        assert "mismatch" not in await homing.alarms()


async def test_hanging_list_holds_no_poll_back(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    asked, answering = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> Answer | None:
        if lists(request):
            asked.set()
            await answering.wait()
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=LISTING, callbacks=False, loops=False) as homing,
    ):
        ours = await many(homing, 60)
        await ended(kling_sandbox)
        homing.clock.ahead = DUE
        reading = asyncio.create_task(homing.reconciler.run_once())
        await asyncio.wait_for(asked.wait(), 60)

        # Rounds overlap. While a list is read, each of the others polls up to one batch.
        others = [await homing.reconciler.run_once() for _ in range(3)]

        assert [(counts.list_pages, counts.requests, counts.settled) for counts in others] == [(0, 1, 20)] * 3
        assert await states(homing, ours) == {Status.SUCCEEDED}
        answering.set()
        assert (await reading).settled == 0
        assert {task.poll_count for task in await all_tasks(homing)} == {1}
