"""No task is charged twice: after any failure, the provider's ledger has one task for one create request.

A client gets an error only if nothing was created, and success as soon as the provider may have the task.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.builders import name_of
from tests.support.conditions import until
from tests.support.databases import sqlite_url
from tests.support.homing_server import ANYBODY, CAT, CREATE, KIND, SHORT, HomingServer, homing_server
from tests.support.provider_proxy import Answer, Request, page, provider_proxy, refusal
from tracker.app import discovery_of
from tracker.errors import ProviderUnavailable, StoreUnavailable
from tracker.model.changes import Work
from tracker.model.task import Status, Task
from tracker.storage.store import Store

SandboxFactory = Callable[..., RunningSandbox]
NOT_FOUND = "Task not found by id/external id: {}"
# Longer than any running attempt, and longer than the delay before denials count.
AFTERWARDS = SHORT.answer_within + SHORT.lease_margin + SHORT.absence_wait
REFUSALS = [
    *((429, 1100), (429, 1101), (429, 1102), (403, 1103), (400, 1200), (400, 1201), (404, 1202), (404, 1203)),
    *((400, 1300), (400, 1301)),
]
CREDENTIAL_TROUBLE = [(401, 1000), (401, 1001), (401, 1002), (401, 1003), (401, 1004), (429, 1304)]


def prompt_of(request: Request) -> str:
    return str(json.loads(request.body)["prompt"])


def sent_id(request: Request) -> str:
    return str(json.loads(request.body)["external_task_id"])


def made(sandbox: RunningSandbox, prompt: str) -> list[dict[str, Any]]:
    """Return the tasks in the provider's ledger with the given prompt."""
    return [task for task in sandbox.ledger["tasks"] if task["prompt"] == prompt]


def has_id(task: Task) -> bool:
    return task.provider_task_id is not None


TAKEN = "1201 about our id"
# The ways in which a create request can end without a known outcome.
LOST: dict[str, Callable[[Request], Answer | None]] = {
    "connection cut": lambda _: None,
    "5000": lambda _: refusal(500, 5000),
    "5002": lambda _: refusal(504, 5002),
    "bare 502": lambda _: page(502),
    "nonsense": lambda _: page(200, "{"),
    TAKEN: lambda request: refusal(400, 1201, f"External_task_id {sent_id(request)} already exists"),
    "5001": lambda _: refusal(503, 5001),
}


async def test_lost_answer_makes_one_task_and_success(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """Test each way to lose an answer twice: with the task created, and with the request never received."""
    struck: set[str] = set()

    async def script(request: Request) -> Answer | None:
        if not request.creates or (name := prompt_of(request)) in struck or name == "the first":
            return await request.forward()
        struck.add(name)
        way, _, fate = name.partition(", ")
        if fate == "made":
            await request.forward()
        return LOST[way](request)

    # Homing never resends a task that the provider claims to have, so this pair is excluded.
    prompts = [f"{way}, {fate}" for way in LOST for fate in ("made", "not made") if (way, fate) != (TAKEN, "not made")]
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False) as homing,
    ):
        await homing.lookups_proven()
        ours = await asyncio.gather(*(homing.created(prompt=name) for name in prompts))
        homing.clock.ahead = AFTERWARDS
        ends = await asyncio.gather(*(homing.settled(task_id) for task_id in ours))
    assert {name: end.status for name, end in zip(prompts, ends, strict=True)} == dict.fromkeys(prompts, "succeeded")
    for name, task_id in zip(prompts, ours, strict=True):
        assert [task["external_id"] for task in made(kling_sandbox, name)] == [task_id], name
        # Homing looked up each task that the provider had, and did not resend it.
        creates = sum(request.creates and prompt_of(request) == name for request in line.seen)
        assert creates == (1 if name.endswith(", made") else 2), name


async def test_resubmission_waits_for_two_denials_and_deadline(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    # Only the moved clock ends the attempt, on a machine of any speed.
    policy = replace(SHORT, answer_within=timedelta(minutes=5))
    requests: list[str] = []
    ours = "nothing yet"

    async def script(request: Request) -> Answer | None:
        if request.creates and prompt_of(request) == "a dog":
            requests.append("create")
            return None if requests.count("create") == 1 else await request.forward()
        if request.target.endswith(f"/{ours}") and requests.count("create") == 1:
            requests.append("lookup")
        return await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, callbacks=False, loops=False) as homing,
    ):
        await homing.lookups_proven()
        ours = await homing.created(prompt="a dog")
        attempt = (await homing.task(ours)).attempt_deadline_at
        assert attempt is not None
        homing.clock.ahead = timedelta(seconds=0.5)

        async def looked(times: int) -> bool:
            return requests.count("lookup") >= times

        # Denials before the deadline of the attempt do not count.
        await homing.reconcile(lambda: looked(1))
        assert (await homing.task(ours)).not_found == 0
        homing.clock.ahead = attempt - homing.clock() + homing.clock.ahead + policy.absence_wait
        await homing.reconcile(lambda: looked(2))
        assert (await homing.task(ours)).not_found == 1
        assert requests.count("create") == 1
        await homing.reconcile(lambda: looked(3))
        await homing.reconcile(lambda: _has_id(homing, ours))
    assert requests.count("create") == 2
    assert len(made(kling_sandbox, "a dog")) == 1


async def _has_id(homing: HomingServer, ref: str) -> bool:
    return has_id(await homing.task(ref))


async def test_maintenance_answer_is_looked_up_at_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        reply = await request.forward()
        return refusal(503, 5001) if request.creates else reply

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        task = await homing.task(await homing.created())
    assert task.provider_task_id == kling_sandbox.task(task.id)["id"]
    assert line.count(lambda request: request.creates) == 1


async def test_full_provider_is_retried_within_answer_time(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    full = [refusal(429, 1303), refusal(429, 1302)]

    async def script(request: Request) -> Answer | None:
        return full.pop() if request.creates and full else await request.forward()

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        task = await homing.task(await homing.created())
    assert has_id(task)
    assert line.count(lambda request: request.creates) == 3
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_full_provider_refusal_frees_the_id(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    full = True

    async def script(request: Request) -> Answer | None:
        if not full:
            return await request.forward()
        if line.count(lambda request: request.creates) == 3:
            # No time is left for another attempt.
            homing.clock.ahead += policy.answer_within
        return refusal(429, 1303, "parallel task over resource pack limit")

    policy = replace(SHORT, answer_within=timedelta(minutes=5))
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy) as homing,
    ):
        reply = await homing.create(external_task_id="mine-1")
        assert reply.status_code == 429
        assert (reply.json()["code"], reply.json()["message"]) == (1303, "parallel task over resource pack limit")
        assert int(reply.headers["retry-after"]) >= 1
        assert line.count(lambda request: request.creates) == 3
        refused = await homing.task("mine-1")
        assert (refused.status, refused.next_poll_at) == (Status.REJECTED, None)
        full = False
        again = await homing.created(external_task_id="mine-1", prompt="something else")
        assert again != refused.id
        task = await homing.settled(again)
        assert task.status is Status.SUCCEEDED
        assert task.sent_external_id != refused.sent_external_id
    assert [task["external_id"] for task in kling_sandbox.ledger["tasks"]] == [task.sent_external_id]


async def test_long_retry_after_is_returned_to_client(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:  # noqa: ARG001 - a script takes the request
        return refusal(429, 1303, retry_after="40")

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        reply = await homing.create()
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (429, 1303, "40")
    assert line.count(lambda request: request.creates) == 1


async def test_unreachable_provider_error_sends_nothing_later(tmp_path: Path) -> None:
    async with provider_proxy("http://127.0.0.1:9") as line:
        nobody = line.base_url
    policy = replace(SHORT, answer_within=timedelta(seconds=1))
    async with homing_server(tmp_path, nobody, policy=policy) as homing:
        reply = await homing.create(external_task_id="mine-1")
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert int(reply.headers["retry-after"]) >= 1
        task = await homing.task("mine-1")
        assert (task.status, task.released, task.next_poll_at) == (Status.REJECTED, True, None)
        order = homing.tracker.order("kling", KIND, dict(CAT))
        with pytest.raises(ProviderUnavailable):
            await homing.tracker.submit(ANYBODY, "kling", order)


async def test_permanent_refusal_is_returned_and_frees_id(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    answers = {f"{code}": refusal(status, code, f"the text of {code}") for status, code in REFUSALS}

    async def script(request: Request) -> Answer | None:
        return answers[prompt_of(request)]

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        for status, code in REFUSALS:
            reply = await homing.create(prompt=f"{code}", external_task_id="the same for all")
            body = reply.json()
            assert (reply.status_code, body["code"], body["message"]) == (status, code, f"the text of {code}")
            task = await homing.task("the same for all")
            assert (task.status, task.released, task.next_poll_at) == (Status.REJECTED, True, None)
    assert kling_sandbox.ledger["tasks"] == []


async def test_client_never_sees_operator_credential_error(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    answers = {f"{code}": refusal(status, code, "your key is wrong") for status, code in CREDENTIAL_TROUBLE}

    async def script(request: Request) -> Answer | None:
        return answers[prompt_of(request)]

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        for _, code in CREDENTIAL_TROUBLE:
            reply = await homing.create(prompt=f"{code}", external_task_id="mine")
            assert (reply.status_code, reply.json()["code"]) == (503, 5001)
            assert "credential refused" in reply.json()["message"]
            assert "your key is wrong" not in reply.text
            assert (await homing.task("mine")).status is Status.REJECTED
        assert (await homing.alarms())["credential"] == len(CREDENTIAL_TROUBLE)


async def test_task_confirmed_before_refusal_is_success(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The callback of a task may arrive before the create reply. No later reply can undo it."""

    async def script(request: Request) -> Answer | None:
        if not request.creates:
            return await request.forward()
        await request.forward()
        await homing.seen(sent_id(request), lambda task: task.status is Status.SUCCEEDED)
        return refusal(400, 1300, "no")

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        task = await homing.task(await homing.created())
    assert task.status is Status.SUCCEEDED


# ---- a provider without external IDs


async def lost_at_a_reseller(homing: HomingServer, **changes: Any) -> Task:
    """Submit a request whose reply is lost, and run the reconciler until it polls."""
    ours = await homing.created(**changes)

    async def polled() -> bool:
        return (await homing.task(ours)).poll_count >= 5

    await homing.reconcile(polled, step=AFTERWARDS)
    task = await homing.task(ours)
    assert (task.status, task.reason, task.attempts) == (Status.PENDING, "unresolved", 1)
    return task


async def drop_replies(request: Request) -> Answer | None:
    reply = await request.forward()
    return None if request.creates else reply


async def test_no_external_ids_never_resends_and_alarms(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    reseller = kling_sandbox_factory(reseller=True, held=True)
    async with (
        provider_proxy(reseller.base_url, drop_replies) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await lost_at_a_reseller(homing)
        assert (await homing.alarms())["unresolved"] == 1
    assert reseller.ledger["requests"]["create"] == 1


async def test_task_callback_resolves_unresolved_task(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    reseller = kling_sandbox_factory(reseller=True, held=True, intermediate=False)
    async with (
        provider_proxy(reseller.base_url, drop_replies) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing)
        truth = reseller.ledger["tasks"][0]
        reseller.finish(truth["id"])
        # The body has no external ID. Homing trusts it only after a poll of the ID in it confirms it.
        unverified = await homing.seen(task.id, lambda task: task.candidate_id is not None)
        assert unverified.status is Status.PENDING
        await homing.reconcile(lambda: _has_id(homing, task.id), step=AFTERWARDS)
        after = await homing.task(task.id)
    assert (after.status, after.provider_task_id) == (Status.SUCCEEDED, truth["id"])
    assert reseller.ledger["requests"]["create"] == 1


async def test_operator_attaches_listed_task_to_unresolved(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    reseller = kling_sandbox_factory(reseller=True, held=True)
    async with (
        provider_proxy(reseller.base_url, drop_replies) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing)
        truth = reseller.ledger["tasks"][0]
        reseller.finish(truth["id"])
        found = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (found.candidates, found.adopted) == ([(task.id, truth["id"])], 0)
        reply = await homing.client.post(f"/v1/tasks/{task.id}/resolve", json={"provider_task_id": truth["id"]})
        assert (reply.status_code, reply.json()["status"]) == (200, "succeeded")
    assert reseller.ledger["requests"]["create"] == 1


async def test_operator_resolves_task_as_never_created(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    reseller = kling_sandbox_factory(reseller=True)

    async def lose_the_first(request: Request) -> Answer | None:
        return None if request.creates and prompt_of(request) == "a cat" else await request.forward()

    async with (
        provider_proxy(reseller.base_url, lose_the_first) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing, external_task_id="mine")
        reply = await homing.client.post(f"/v1/tasks/{task.id}/resolve", json={"status": "rejected"})
        assert (reply.status_code, reply.json()["status"]) == (200, "rejected")
        again = await homing.created(external_task_id="mine", prompt="another prompt")
        assert again != task.id
    assert reseller.ledger["requests"]["create"] == 1


async def test_provider_list_resolves_task_by_external_id(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        reply = await request.forward()
        if request.asks_one:
            return refusal(400, 1201, NOT_FOUND.format(request.target.rpartition("/")[2]))
        return None if request.creates else reply

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing)

        async def listed() -> bool:
            return (await discovery_of(homing.tracker).discover("kling", KIND)).settled == 1

        # The list shows no external ID until the task finishes. Without it, an operator has to decide.
        await until(listed)
        after = await homing.task(task.id)
    assert after.status is Status.SUCCEEDED
    assert kling_sandbox.ledger["requests"]["create"] == 1


# ---- repeated requests


async def test_returning_client_finds_its_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> Answer | None:
        if request.creates:
            arrived.set()
            await go_on.wait()
        return await request.forward()

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        leaving = asyncio.create_task(homing.create(external_task_id="mine"))
        await arrived.wait()
        leaving.cancel()
        await asyncio.wait({leaving})
        go_on.set()
        task = await homing.settled("mine")
        assert task.status is Status.SUCCEEDED
        assert await homing.created(external_task_id="mine") == task.id
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_canceled_python_submit_is_still_sent(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """At any moment of the cancellation the submission is recorded and sent, or neither."""
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        for steps in range(12):
            order = homing.tracker.order("kling", KIND, CAT | {"external_task_id": f"mine-{steps}"})
            submit = asyncio.create_task(homing.tracker.submit(ANYBODY, "kling", order))
            for _ in range(steps):
                await asyncio.sleep(0)
            submit.cancel()
            await asyncio.wait({submit})

        async def all_made() -> bool:
            # The first request was canceled before its first step.
            return len(kling_sandbox.ledger["tasks"]) == 11

        await until(all_made)
        listed = (await homing.client.get("/v1/tasks")).json()["tasks"]
        sent = {(await homing.task(task["id"])).sent_external_id for task in listed}
    assert sent == {task["external_id"] for task in kling_sandbox.ledger["tasks"]}


async def test_concurrent_equal_ids_make_one_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        by_id = await asyncio.gather(*(homing.created(external_task_id="mine") for _ in range(8)))
        by_key = await asyncio.gather(
            *(homing.created(headers={"idempotency-key": "key-1"}, prompt="a dog") for _ in range(8))
        )
        # Without an ID, each request makes its own task.
        fresh = await asyncio.gather(*(homing.created(prompt="a bird") for _ in range(3)))
    assert (len(set(by_id)), len(set(by_key)), len(set(fresh))) == (1, 1, 3)
    assert len(kling_sandbox.ledger["tasks"]) == 5


async def test_same_id_with_other_body_is_refused(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.created(external_task_id="mine", headers={"idempotency-key": "key-1"})
        by_id = await homing.create(external_task_id="mine", prompt="a dog")
        by_key = await homing.create(headers={"idempotency-key": "key-1"}, prompt="a dog")
        # The callback URL is not part of the request's identity.
        same = await homing.create(external_task_id="mine", callback_url="https://example.com/hook")
    assert (by_id.status_code, by_id.json()["code"]) == (400, 1201)
    assert by_id.json()["message"] == "External_task_id mine already exists"
    assert (by_key.status_code, by_key.json()["code"]) == (400, 1201)
    assert same.status_code == 200
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_external_id_survives_a_restart(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        first = await homing.created(external_task_id="mine")
        second = await homing.created(headers={"idempotency-key": "key-1"})
        third = await homing.created()
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        assert await homing.created(external_task_id="mine") == first
        assert await homing.created(headers={"idempotency-key": "key-1"}) == second
        # The client got its answer, so the same body makes a new task.
        assert await homing.created() != third
    assert len(kling_sandbox.ledger["tasks"]) == 4


async def test_clients_do_not_share_external_ids(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    keys = "studio:made-up-studio-key,other:made-up-other-key"
    async with homing_server(tmp_path, kling_sandbox.base_url, api_keys=keys) as homing:
        mine = await homing.created(external_task_id="1")
        other = {"authorization": "Bearer made-up-other-key"}
        assert await homing.created(external_task_id="1", headers=other) != mine
        hidden = await homing.client.get(f"{CREATE}/{mine}", headers=other)
        assert (hidden.status_code, hidden.json()["code"]) == (400, 1201)
    assert len(kling_sandbox.ledger["tasks"]) == 2


# ---- failures in Homing itself


class FailingStore(Store):
    """A store that fails for the named works, a given number of times."""

    def __init__(self, database_url: str, piece: str, error: Exception) -> None:
        super().__init__(database_url)
        self.piece = piece
        self.error = error
        self.failing = True

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        if self.failing and any(name_of(work) == self.piece for work in works):
            raise self.error
        return await super().apply(works)


FULL = StoreUnavailable("the disk is full")
BROKEN = RuntimeError("nobody expected this")


@pytest.mark.parametrize("error", [FULL, BROKEN], ids=["full", "broken"])
@pytest.mark.parametrize("piece", ["RecordAccepted", "RecordUnanswered"])
async def test_unwritten_result_is_no_client_error(
    tmp_path: Path, kling_sandbox: RunningSandbox, piece: str, error: Exception
) -> None:
    store = FailingStore(sqlite_url(tmp_path), piece, error)
    store.failing = False

    async def script(request: Request) -> Answer | None:
        reply = await request.forward()
        return None if request.creates and piece == "RecordUnanswered" and prompt_of(request) == "a dog" else reply

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, store=store) as homing,
    ):
        await homing.lookups_proven()
        store.failing = True
        ours = await homing.created(prompt="a dog", external_task_id="mine")
        assert (await homing.task(ours)).status is Status.PENDING
        assert await homing.created(prompt="a dog", external_task_id="mine") == ours
        store.failing = False
        homing.clock.ahead = AFTERWARDS
        assert (await homing.settled(ours)).status is Status.SUCCEEDED
    assert len(made(kling_sandbox, "a dog")) == 1


async def test_unwritten_refusal_is_not_returned(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """After an error the client may retry, while recovery would still submit the recorded row.

    Homing records the refusal as soon as the database accepts it, so that it is not sent later.
    """
    store = FailingStore(sqlite_url(tmp_path), "RecordRefused", FULL)

    async def script(request: Request) -> Answer | None:
        refused = request.creates and prompt_of(request) == "a dog" and store.failing
        return refusal(400, 1300, "no") if refused else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, store=store) as homing,
    ):
        await homing.lookups_proven()
        ours = await homing.created(prompt="a dog")
        assert (await homing.task(ours)).status is Status.PENDING
        store.failing = False
        assert (await homing.settled(ours)).status is Status.REJECTED
    assert made(kling_sandbox, "a dog") == []


async def test_database_outage_sends_nothing(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    store = FailingStore(sqlite_url(tmp_path), "RecordSubmission", FULL)
    async with homing_server(tmp_path, kling_sandbox.base_url, store=store) as homing:
        reply = await homing.create()
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert "retry-after" in reply.headers
    assert kling_sandbox.ledger["requests"]["create"] == 0


async def test_two_recoveries_of_a_task_send_it_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """A lease that expires while its holder is slow must not cause two resubmissions."""
    lose = True

    async def script(request: Request) -> Answer | None:
        return None if request.creates and lose and prompt_of(request) == "a dog" else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await homing.lookups_proven()
        ours = await homing.created(prompt="a dog")
        lose = False
        homing.clock.ahead = AFTERWARDS

        async def absent() -> bool:
            return (await homing.task(ours)).not_found >= SHORT.absences

        async with asyncio.timeout(10):
            while not await absent():
                await homing.tracker.poll(ANYBODY, ours)
        task = await homing.task(ours)
        account = homing.tracker.providers["kling"]
        twice = (homing.tracker.submission.again(task, account), homing.tracker.submission.again(task, account))
        await asyncio.gather(*twice, return_exceptions=True)
        await homing.seen(ours, has_id)
    assert len(made(kling_sandbox, "a dog")) == 1
    assert line.count(lambda request: request.creates and prompt_of(request) == "a dog") == 2


async def test_parked_domain_page_is_no_provider_answer(tmp_path: Path) -> None:
    """Parked domains and login portals return a web page for any path. It counts as no answer of the provider."""

    async def script(request: Request) -> Answer | None:  # noqa: ARG001 - a script takes the request
        return page(200, "<html>Welcome</html>")

    async with (
        provider_proxy("http://127.0.0.1:9", script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False) as homing,
    ):
        task_id = await homing.created()
        task = await homing.seen(task_id, lambda task: task.poll_count >= 3)
        assert (task.status, task.reason) == (Status.PENDING, "unresolved")
        assert line.count(lambda request: request.creates) == 1


async def test_hanging_provider_is_answered_in_time(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """The provider accepts the connection and never answers. The client still gets an answer in time."""

    async def script(request: Request) -> Answer | None:
        if request.creates:
            await asyncio.sleep(60)
        return await request.forward()

    policy = replace(SHORT, answer_within=timedelta(seconds=1), attempt=timedelta(seconds=0.8))
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=policy, loops=False) as homing,
    ):
        async with asyncio.timeout(10):
            reply = await homing.create()
        assert isinstance(reply, httpx.Response)
        assert (reply.status_code, reply.json()["data"]["task_status"]) == (200, "submitted")
