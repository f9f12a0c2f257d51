"""No task is charged twice: whatever happens between us and the provider, its ledger has one task for one wish.

A client is told an error only where nothing was created, and success as soon as the provider may have the task.
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
from tests.support.databases import sqlite_url
from tests.support.homing_server import ANYBODY, CAT, CREATE, KIND, SHORT, HomingServer, homing_server, until
from tests.support.provider_proxy import Answer, Request, page, provider_proxy, refusal
from tracker.app import discovery_of
from tracker.errors import ProviderUnavailable, StoreUnavailable
from tracker.model.changes import Work
from tracker.model.task import Status, Task
from tracker.storage.store import Store

SandboxFactory = Callable[..., RunningSandbox]
NOT_FOUND = "Task not found by id/external id: {}"
# Later than anything that is still under way, and than denials begin to count.
AFTERWARDS = SHORT.answer_within + SHORT.lease_margin + SHORT.absence_wait
REFUSALS = [
    *((429, 1100), (429, 1101), (429, 1102), (403, 1103), (400, 1200), (400, 1201), (404, 1202), (404, 1203)),
    *((400, 1300), (400, 1301)),
]
CREDENTIAL_TROUBLE = [(401, 1000), (401, 1001), (401, 1002), (401, 1003), (401, 1004), (429, 1304)]


def wish(request: Request) -> str:
    return str(json.loads(request.body)["prompt"])


def sent_id(request: Request) -> str:
    return str(json.loads(request.body)["external_task_id"])


def made(sandbox: RunningSandbox, prompt: str) -> list[dict[str, Any]]:
    """Return the tasks that the provider truly has for a wish."""
    return [task for task in sandbox.ledger["tasks"] if task["prompt"] == prompt]


def has_id(task: Task) -> bool:
    return task.provider_task_id is not None


TAKEN = "1201 about our id"
# How a create may end without an answer that says what came of it.
LOST: dict[str, Callable[[Request], Answer | None]] = {
    "connection cut": lambda _: None,
    "5000": lambda _: refusal(500, 5000),
    "5002": lambda _: refusal(504, 5002),
    "bare 502": lambda _: page(502),
    "nonsense": lambda _: page(200, "{"),
    TAKEN: lambda request: refusal(400, 1201, f"External_task_id {sent_id(request)} already exists"),
    "5001": lambda _: refusal(503, 5001),
}


async def test_whatever_became_of_the_answer_there_is_one_task_and_the_client_is_told_success(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """Each way to lose an answer twice: the provider made the task, or never saw the request."""
    struck: set[str] = set()

    async def script(request: Request) -> Answer | None:
        if not request.creates or (name := wish(request)) in struck or name == "the first":
            return await request.forward()
        struck.add(name)
        way, _, fate = name.partition(", ")
        if fate == "made":
            await request.forward()
        return LOST[way](request)

    # A provider that says that it has the task, and has none, would never be sent it again.
    wishes = [f"{way}, {fate}" for way in LOST for fate in ("made", "not made") if (way, fate) != (TAKEN, "not made")]
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, callbacks=False) as homing,
    ):
        await homing.lookups_proven()
        ours = await asyncio.gather(*(homing.created(prompt=name) for name in wishes))
        homing.clock.ahead = AFTERWARDS
        ends = await asyncio.gather(*(homing.settled(task_id) for task_id in ours))
    assert {name: end.status for name, end in zip(wishes, ends, strict=True)} == dict.fromkeys(wishes, "succeeded")
    for name, task_id in zip(wishes, ours, strict=True):
        assert [task["external_id"] for task in made(kling_sandbox, name)] == [task_id], name
        # What the provider had got was asked about, and never sent again.
        creates = sum(request.creates and wish(request) == name for request in line.seen)
        assert creates == (1 if name.endswith(", made") else 2), name


async def test_a_repeated_create_waits_for_two_denials_and_the_time_that_the_first_could_still_take(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    # The attempt is over when the clock is moved there, and not before, however slow the machine.
    policy = replace(SHORT, answer_within=timedelta(minutes=5))
    asked: list[str] = []
    ours = "nothing yet"

    async def script(request: Request) -> Answer | None:
        if request.creates and wish(request) == "a dog":
            asked.append("create")
            return None if asked.count("create") == 1 else await request.forward()
        if request.target.endswith(f"/{ours}") and asked.count("create") == 1:
            asked.append("lookup")
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
            return asked.count("lookup") >= times

        # Denials before the attempt's time is over prove nothing, however many.
        await homing.reconcile(lambda: looked(1))
        assert (await homing.task(ours)).not_found == 0
        homing.clock.ahead = attempt - homing.clock() + homing.clock.ahead + policy.absence_wait
        await homing.reconcile(lambda: looked(2))
        assert (await homing.task(ours)).not_found == 1
        assert asked.count("create") == 1
        await homing.reconcile(lambda: looked(3))
        await homing.reconcile(lambda: _has_id(homing, ours))
    assert asked.count("create") == 2
    assert len(made(kling_sandbox, "a dog")) == 1


async def _has_id(homing: HomingServer, ref: str) -> bool:
    return has_id(await homing.task(ref))


async def test_maintenance_is_looked_up_at_once_and_a_task_that_is_there_is_told(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
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


async def test_a_full_provider_is_asked_again_within_the_answers_time(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    full = [refusal(429, 1303), refusal(429, 1302)]

    async def script(request: Request) -> Answer | None:
        return full.pop() if request.creates and full else await request.forward()

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        task = await homing.task(await homing.created())
    assert has_id(task)
    assert line.count(lambda request: request.creates) == 3
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_a_provider_that_stays_full_refuses_with_its_own_words_and_the_id_is_free_again(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    full = True

    async def script(request: Request) -> Answer | None:
        if not full:
            return await request.forward()
        if line.count(lambda request: request.creates) == 3:
            # Now there is no time left for another.
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


async def test_a_told_wait_that_is_too_long_for_the_client_is_passed_on(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async def script(request: Request) -> Answer | None:  # noqa: ARG001 - a script takes the request
        return refusal(429, 1303, retry_after="40")

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        reply = await homing.create()
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (429, 1303, "40")
    assert line.count(lambda request: request.creates) == 1


async def test_a_provider_that_cannot_be_reached_is_an_error_and_nothing_is_sent_later(tmp_path: Path) -> None:
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


async def test_a_permanent_refusal_goes_to_the_client_as_it_is_and_leaves_the_id_free(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    answers = {f"{code}": refusal(status, code, f"the words of {code}") for status, code in REFUSALS}

    async def script(request: Request) -> Answer | None:
        return answers[wish(request)]

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        for status, code in REFUSALS:
            reply = await homing.create(prompt=f"{code}", external_task_id="the same for all")
            told = reply.json()
            assert (reply.status_code, told["code"], told["message"]) == (status, code, f"the words of {code}")
            task = await homing.task("the same for all")
            assert (task.status, task.released, task.next_poll_at) == (Status.REJECTED, True, None)
    assert kling_sandbox.ledger["tasks"] == []


async def test_the_operators_credential_is_never_shown_as_the_clients_trouble(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    answers = {f"{code}": refusal(status, code, "your key is wrong") for status, code in CREDENTIAL_TROUBLE}

    async def script(request: Request) -> Answer | None:
        return answers[wish(request)]

    async with provider_proxy(kling_sandbox.base_url, script) as line, homing_server(tmp_path, line.base_url) as homing:
        for _, code in CREDENTIAL_TROUBLE:
            reply = await homing.create(prompt=f"{code}", external_task_id="mine")
            assert (reply.status_code, reply.json()["code"]) == (503, 5001)
            assert "credential refused" in reply.json()["message"]
            assert "your key is wrong" not in reply.text
            assert (await homing.task("mine")).status is Status.REJECTED
        assert (await homing.alarms())["credential"] == len(CREDENTIAL_TROUBLE)


async def test_a_task_that_is_proven_before_its_refusal_is_success(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """The callback of a task may come before the reply to its create; no later word can unmake it."""

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


# ---- an address that knows no external ids


async def lost_at_a_reseller(homing: HomingServer, **changes: Any) -> Task:
    """Submit where the reply is lost, and let the reconciler do all that it may."""
    ours = await homing.created(**changes)

    async def asked() -> bool:
        return (await homing.task(ours)).poll_count >= 5

    await homing.reconcile(asked, step=AFTERWARDS)
    task = await homing.task(ours)
    assert (task.status, task.reason, task.attempts) == (Status.PENDING, "unresolved", 1)
    return task


async def drop_replies(request: Request) -> Answer | None:
    reply = await request.forward()
    return None if request.creates else reply


async def test_without_external_ids_nothing_is_ever_sent_twice_and_somebody_is_told(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    reseller = kling_sandbox_factory(reseller=True, held=True)
    async with (
        provider_proxy(reseller.base_url, drop_replies) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        await lost_at_a_reseller(homing)
        assert (await homing.alarms())["unresolved"] == 1
    assert reseller.ledger["requests"]["create"] == 1


async def test_its_own_callback_settles_an_unresolved_task(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    reseller = kling_sandbox_factory(reseller=True, held=True, intermediate=False)
    async with (
        provider_proxy(reseller.base_url, drop_replies) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing)
        truth = reseller.ledger["tasks"][0]
        reseller.finish(truth["id"])
        # The body has no external id: it is believed only after the provider, asked about the id in it, confirms it.
        hinted = await homing.seen(task.id, lambda task: task.candidate_id is not None)
        assert hinted.status is Status.PENDING
        await homing.reconcile(lambda: _has_id(homing, task.id), step=AFTERWARDS)
        after = await homing.task(task.id)
    assert (after.status, after.provider_task_id) == (Status.SUCCEEDED, truth["id"])
    assert reseller.ledger["requests"]["create"] == 1


async def test_the_operator_settles_an_unresolved_task_with_what_the_list_shows(
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


async def test_the_operator_may_say_that_an_unresolved_task_never_was(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    reseller = kling_sandbox_factory(reseller=True)

    async def lose_the_first(request: Request) -> Answer | None:
        return None if request.creates and wish(request) == "a cat" else await request.forward()

    async with (
        provider_proxy(reseller.base_url, lose_the_first) as line,
        homing_server(tmp_path, line.base_url, callbacks=False, loops=False) as homing,
    ):
        task = await lost_at_a_reseller(homing, external_task_id="mine")
        reply = await homing.client.post(f"/v1/tasks/{task.id}/resolve", json={"status": "rejected"})
        assert (reply.status_code, reply.json()["status"]) == (200, "rejected")
        again = await homing.created(external_task_id="mine", prompt="another wish")
        assert again != task.id
    assert reseller.ledger["requests"]["create"] == 1


async def test_the_providers_list_settles_a_task_whose_external_id_it_shows(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
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

        # Until its end the list shows no external id, and then the operator would have to decide.
        await until(listed)
        after = await homing.task(task.id)
    assert after.status is Status.SUCCEEDED
    assert kling_sandbox.ledger["requests"]["create"] == 1


# ---- the same wish again


async def test_a_client_that_leaves_finds_its_task_when_it_comes_back(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
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


async def test_a_python_caller_that_stops_waiting_leaves_a_task_that_is_sent(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """However early it goes: its wish is written down and sent, or neither."""
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        for steps in range(12):
            order = homing.tracker.order("kling", KIND, CAT | {"external_task_id": f"mine-{steps}"})
            submit = asyncio.create_task(homing.tracker.submit(ANYBODY, "kling", order))
            for _ in range(steps):
                await asyncio.sleep(0)
            submit.cancel()
            await asyncio.wait({submit})

        async def all_made() -> bool:
            # The first was cancelled before it took its first step.
            return len(kling_sandbox.ledger["tasks"]) == 11

        await until(all_made)
        listed = (await homing.client.get("/v1/tasks")).json()["tasks"]
        sent = {(await homing.task(task["id"])).sent_external_id for task in listed}
    assert sent == {task["external_id"] for task in kling_sandbox.ledger["tasks"]}


async def test_the_same_id_many_times_at_once_is_one_task(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        by_id = await asyncio.gather(*(homing.created(external_task_id="mine") for _ in range(8)))
        by_key = await asyncio.gather(
            *(homing.created(headers={"idempotency-key": "key-1"}, prompt="a dog") for _ in range(8))
        )
        # Without an id each request is a wish of its own.
        fresh = await asyncio.gather(*(homing.created(prompt="a bird") for _ in range(3)))
    assert (len(set(by_id)), len(set(by_key)), len(set(fresh))) == (1, 1, 3)
    assert len(kling_sandbox.ledger["tasks"]) == 5


async def test_the_same_id_with_another_body_is_refused_in_the_providers_words(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        await homing.created(external_task_id="mine", headers={"idempotency-key": "key-1"})
        by_id = await homing.create(external_task_id="mine", prompt="a dog")
        by_key = await homing.create(headers={"idempotency-key": "key-1"}, prompt="a dog")
        # Where the callback goes is no part of the wish.
        same = await homing.create(external_task_id="mine", callback_url="https://example.com/hook")
    assert (by_id.status_code, by_id.json()["code"]) == (400, 1201)
    assert by_id.json()["message"] == "External_task_id mine already exists"
    assert (by_key.status_code, by_key.json()["code"]) == (400, 1201)
    assert same.status_code == 200
    assert len(kling_sandbox.ledger["tasks"]) == 1


async def test_an_id_is_remembered_across_a_restart(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        first = await homing.created(external_task_id="mine")
        second = await homing.created(headers={"idempotency-key": "key-1"})
        third = await homing.created()
    async with homing_server(tmp_path, kling_sandbox.base_url) as homing:
        assert await homing.created(external_task_id="mine") == first
        assert await homing.created(headers={"idempotency-key": "key-1"}) == second
        # Its answer was sent: the same body is a new wish, not a repeat.
        assert await homing.created() != third
    assert len(kling_sandbox.ledger["tasks"]) == 4


async def test_clients_do_not_share_their_ids(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    keys = "studio:made-up-studio-key,other:made-up-other-key"
    async with homing_server(tmp_path, kling_sandbox.base_url, api_keys=keys) as homing:
        mine = await homing.created(external_task_id="1")
        other = {"authorization": "Bearer made-up-other-key"}
        assert await homing.created(external_task_id="1", headers=other) != mine
        hidden = await homing.client.get(f"{CREATE}/{mine}", headers=other)
        assert (hidden.status_code, hidden.json()["code"]) == (400, 1201)
    assert len(kling_sandbox.ledger["tasks"]) == 2


# ---- our own trouble in the middle


class FailingStore(Store):
    """A database that fails for the named pieces of work, as often as told."""

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
async def test_what_cannot_be_written_down_after_the_call_is_no_error_to_the_client(
    tmp_path: Path, kling_sandbox: RunningSandbox, piece: str, error: Exception
) -> None:
    store = FailingStore(sqlite_url(tmp_path), piece, error)
    store.failing = False

    async def script(request: Request) -> Answer | None:
        reply = await request.forward()
        return None if request.creates and piece == "RecordUnanswered" and wish(request) == "a dog" else reply

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


async def test_a_refusal_that_cannot_be_written_down_is_not_told_before_it_is(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """An error answer would free the client to try again while our row would still be submitted by recovery.

    It is written as soon as the database takes it, so that what was refused is not sent later.
    """
    store = FailingStore(sqlite_url(tmp_path), "RecordRefused", FULL)

    async def script(request: Request) -> Answer | None:
        refused = request.creates and wish(request) == "a dog" and store.failing
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


async def test_without_a_database_nothing_is_sent(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    store = FailingStore(sqlite_url(tmp_path), "RecordSubmission", FULL)
    async with homing_server(tmp_path, kling_sandbox.base_url, store=store) as homing:
        reply = await homing.create()
        assert (reply.status_code, reply.json()["code"]) == (503, 5001)
        assert "retry-after" in reply.headers
    assert kling_sandbox.ledger["requests"]["create"] == 0


async def test_two_recoveries_of_one_task_send_it_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    """A lease that ran out while its holder was slow must not let two repeats happen."""
    lose = True

    async def script(request: Request) -> Answer | None:
        return None if request.creates and lose and wish(request) == "a dog" else await request.forward()

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
    assert line.count(lambda request: request.creates and wish(request) == "a dog") == 2


async def test_a_dead_address_is_never_an_answer_of_the_provider(tmp_path: Path) -> None:
    """A web page for any path, as parked domains and login portals serve it, proves nothing and sends nothing twice."""

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


async def test_the_answer_comes_in_time_whatever_the_provider_does(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """A provider that accepts and says nothing: the client has its answer within the policy's time and some grace."""

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
