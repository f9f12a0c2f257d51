"""Tasks that Homing did not submit: expected, adopted, or found by a callback or in the provider's list."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.builders import a_task, writing
from tests.support.conditions import until
from tests.support.homing_server import ANYBODY, CREATE, KIND, SHORT, SILENT, HomingServer, homing_server
from tests.support.kling_examples import REQUESTS
from tests.support.provider_proxy import Answer, Request, provider_proxy, refusal
from tracker.app import discovery_of
from tracker.errors import ProviderUnavailable
from tracker.loops.discovery import Discovered
from tracker.model.task import Status
from tracker.rules.schedule import Policy

SandboxFactory = Callable[..., RunningSandbox]
KEYS = "studio:made-up-studio-key,operator*:made-up-operator-key"
DUE = timedelta(seconds=5)
# The body that the "test" button of the provider's console sends, as documented with the callback protocol.
CONSOLE_TEST = {"id": "task_made_up_by_the_console", "status": "submitted", "message": "", "outputs": []}


def submit_elsewhere(sandbox: RunningSandbox, kind: str = KIND, **body: Any) -> str:
    """Create a task directly at the provider, as user code does. Return the provider task ID."""
    reply = httpx.post(
        f"{sandbox.base_url}/v1/{kind}",
        json={"prompt": "elsewhere", **body},
        headers=sandbox.headers,
        trust_env=False,
    )
    return str(reply.json()["data"]["task_id"])


async def shared_callback_url(homing: HomingServer, **changes: str) -> str:
    reply = await homing.client.post("/v1/callback-urls", json={"provider": "kling"} | changes)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["callback_url"])


async def orphans(homing: HomingServer) -> list[dict[str, Any]]:
    return list((await homing.client.get("/v1/orphans")).json()["orphans"])


async def in_state(homing: HomingServer, state: str) -> bool:
    return [orphan["state"] for orphan in await orphans(homing)] == [state]


# ---- shared callback URLs


async def test_orphan_is_adopted_once_provider_confirms(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(
        tmp_path, sandbox.base_url, policy=SILENT, api_keys=f"mine*:made-up-key-of-mine,{KEYS}"
    ) as homing:
        theirs = submit_elsewhere(sandbox, callback_url=await shared_callback_url(homing))

        async def adopted() -> bool:
            return (await homing.client.get(f"/v1/tasks/{theirs}")).status_code == 200

        await until(adopted)
        task = await homing.task(theirs)
        assert (task.client, task.origin) == ("mine", "callback")
        await until(lambda: in_state(homing, "adopted"))
        assert (await orphans(homing))[0]["task_id"] == task.id
        # From now on an unsigned callback to the shared callback URL brings the next poll forward.
        sandbox.finish(theirs)
        await homing.seen(theirs, lambda task: task.status is Status.SUCCEEDED)


async def test_orphan_unknown_to_provider_stays_visible(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        callback_url = await shared_callback_url(homing)
        for _ in range(5):
            reply = await homing.client.post(callback_url, json=CONSOLE_TEST)
            assert reply.status_code == 200
        await homing.reconcile(lambda: in_state(homing, "orphan"), step=timedelta(seconds=40))
        (orphan,) = await orphans(homing)
        assert (orphan["provider_task_id"], orphan["provider_status"]) == (CONSOLE_TEST["id"], "submitted")
        assert (orphan["callbacks"], orphan["next_poll_at"]) == (5, None)
        assert callback_url not in json.dumps(orphan)
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []
        await homing.reconciler.run_once()
    # The provider's data may lag, so Homing polls a few times, however many callbacks arrive: each time about all kinds
    # with one query, and about the usual one.
    requests = kling_sandbox.ledger["requests"]
    assert (requests["batch"], requests["single"]) == (3, 3)


@pytest.mark.parametrize("reseller", [False, True], ids=["with a query over all kinds", "without"])
async def test_orphan_of_any_kind_is_found(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory, *, reseller: bool
) -> None:
    """With the default budget, a few queries for each check."""
    sandbox = kling_sandbox_factory(held=True, reseller=reseller)
    policy = replace(SILENT, budget=Policy().budget)
    async with homing_server(tmp_path, sandbox.base_url, policy=policy, loops=False) as homing:
        kind = "general/advanced-custom-elements"
        theirs = submit_elsewhere(sandbox, kind, **REQUESTS[kind])
        await homing.client.post(await shared_callback_url(homing), json={"id": theirs, "status": "processing"})
        await homing.reconcile(lambda: in_state(homing, "adopted"), step=timedelta(seconds=40))
        assert (await homing.task(theirs)).kind == kind
    requests = sandbox.ledger["requests"]
    assert requests["batch"] + requests["single"] <= 6 * 6


async def test_hostile_orphan_does_not_delay_due_tasks(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The provider is slow, and the ID of a forged callback cannot be in a query over all kinds."""
    sandbox = kling_sandbox_factory(held=True, callbacks=False)
    slow = 0.3

    async def script(request: Request) -> Answer | None:
        await asyncio.sleep(slow)
        return await request.forward()

    async with (
        provider_proxy(sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=SHORT) as homing,
    ):
        ours = await homing.created(prompt="a cat")
        await homing.client.post(await shared_callback_url(homing), json={"id": "for,ged", "status": "processing"})
        before = (await homing.task(ours)).poll_count
        await homing.seen(ours, lambda task: task.poll_count >= before + 5)
        about = [request for request in line.seen if "for" in request.target or request.batches]
    # One round checks it, and again after half a minute.
    assert len(about) <= 2


@pytest.mark.parametrize("outage", ["a comma", "403 for the query over all kinds", "every kind fails"])
async def test_every_orphan_check_ends(tmp_path: Path, kling_sandbox_factory: SandboxFactory, outage: str) -> None:
    sandbox = kling_sandbox_factory(held=True)

    async def script(request: Request) -> Answer | None:
        if "403" in outage and request.batches:
            return Answer(status=403, body=b"<html>no</html>", headers={"content-type": "text/html"})
        return None if "fails" in outage and request.method == "GET" else await request.forward()

    async with (
        provider_proxy(sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, policy=SILENT, loops=False) as homing,
    ):
        kind = "videos/effects"
        theirs = submit_elsewhere(sandbox, kind, **REQUESTS[kind])
        ref = "for,ged" if outage == "a comma" else theirs
        await homing.client.post(await shared_callback_url(homing), json={"id": ref, "status": "processing"})
        ended = "adopted" if "403" in outage else "orphan"
        await homing.reconcile(lambda: in_state(homing, ended), step=timedelta(seconds=40))
        assert len(line.seen) <= 70


async def test_orphan_of_a_kind_without_own_query_is_left_to_the_operator(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """Its query would find tasks of other kinds too, so it does not show the kind."""
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT, loops=False) as homing:
        async with httpx.AsyncClient(base_url=sandbox.base_url, headers=sandbox.headers, trust_env=False) as provider:
            reply = await provider.post("/omni-video/kling-3.0-omni", json=REQUESTS["omni-video"])
        theirs = reply.json()["data"]["id"]
        await homing.client.post(await shared_callback_url(homing), json={"id": theirs, "status": "processing"})
        await homing.reconcile(lambda: in_state(homing, "orphan"), step=timedelta(seconds=40))
        (orphan,) = await orphans(homing)
        assert orphan["why"] == "the provider has it, but its kind is not known yet"
        adopt = {"provider": "kling", "kind": "omni-video", "provider_task_id": theirs}
        assert (await homing.client.post("/v1/tasks/adopt", json=adopt)).status_code == 201
        assert (await homing.task(theirs)).kind == "omni-video"


async def test_orphan_waits_while_provider_is_unavailable(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    out = True

    async def script(request: Request) -> Answer | None:
        return None if out else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        theirs = submit_elsewhere(kling_sandbox)
        await homing.client.post(await shared_callback_url(homing), json={"id": theirs, "status": "processing"})
        await homing.reconciler.run_once()
        (orphan,) = await orphans(homing)
        assert (orphan["state"], orphan["why"]) == ("waiting", "Homing could not get it from the provider")
        requests = len(line.seen)
        await homing.reconciler.run_once()
        assert len(line.seen) == requests
        out = False
        homing.clock.ahead = timedelta(minutes=1)
        await homing.reconciler.run_once()
        assert await in_state(homing, "adopted")


async def test_expected_task_callback_is_matched_by_poll(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The body has only the provider task ID, which no row has yet. The poll returns the external ID."""
    sandbox = kling_sandbox_factory()
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT, loops=False) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(sandbox.task(theirs)["final"])

        await until(ended)
        await homing.client.post(await shared_callback_url(homing), json={"id": theirs, "status": "succeeded"})
        counts = await homing.reconciler.run_once()
        assert (counts.orphans_checked, counts.failed) == (1, 0)
        assert await in_state(homing, "adopted")
        task = await homing.task(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        assert (await homing.reconciler.run_once()).orphans_checked == 0


async def test_revoked_callback_url_returns_404(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        callback_url = await shared_callback_url(homing)
        (shown,) = (await homing.client.get("/v1/callback-urls")).json()["callback_urls"]
        assert (await homing.client.delete(f"/v1/callback-urls/{shown['id']}")).status_code == 200
        assert (await homing.client.post(callback_url, json=CONSOLE_TEST)).status_code == 404
        assert await orphans(homing) == []


# ---- the provider's list


async def test_list_scan_adopts_each_unknown_task_once(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    theirs = [submit_elsewhere(kling_sandbox, external_task_id=f"theirs-{number}") for number in range(3)]
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        ours = await homing.created()
        found = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (found.listed, found.known, found.adopted, found.candidates) == (4, 1, 3, [])
        assert [(await homing.task(ref)).origin for ref in theirs] == ["discover"] * 3
        again = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (again.listed, again.known, again.adopted) == (4, 4, 0)
        assert (await homing.task(ours)).origin == "submit"
        pages = [request.target for request in line.seen if "pageNum" in request.target]
        assert [target.partition("?")[2].partition("&")[0] for target in pages] == ["pageNum=1", "pageNum=2"] * 2


async def test_shared_list_is_read_only_for_unresolved_submissions(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    """It shows the tasks of all kinds without their kind, so it adopts nothing."""
    submit_elsewhere(kling_sandbox)
    async with (
        provider_proxy(kling_sandbox.base_url) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        discovery = discovery_of(homing.tracker)
        assert await discovery.discover("kling", "text-to-video") == Discovered()
        assert line.seen == []

        lost = a_task(kind="text-to-video", attempts=1)
        await homing.tracker.store.apply([writing(lost)])
        assert (await discovery.discover("kling", "text-to-video")).unclear == 1
        assert [request.target for request in line.seen] == ["/tasks"]


async def test_unreadable_list_page_is_an_error(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async def script(request: Request) -> Answer | None:
        return refusal(500, 5000) if "pageNum=2" in request.target else await request.forward()

    submit_elsewhere(kling_sandbox)
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        with pytest.raises(ProviderUnavailable):
            await discovery_of(homing.tracker).discover("kling", KIND)
        # The results of the first page are kept.
        assert len((await homing.client.get("/v1/tasks")).json()["tasks"]) == 1


async def test_list_scan_of_expected_task_adds_no_row(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(kling_sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(kling_sandbox.task(theirs)["final"])

        # The list shows no external ID until the task finishes.
        await until(ended)
        found = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (found.adopted, found.settled) == (0, 1)
        assert (await homing.task(theirs)).id == expected.task.id


# ---- expected and attached by a client


async def test_expected_task_with_lost_callback_finishes(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_lost": 1.0})
    async with homing_server(tmp_path, sandbox.base_url) as homing:
        body = {"provider": "kling", "kind": KIND}
        expected = (await homing.client.post("/v1/tasks/expect", json=body)).json()
        theirs = submit_elsewhere(sandbox, callback_url=expected["callback_url"])
        patched = await homing.client.patch(f"/v1/tasks/{expected['task']['id']}", json={"provider_task_id": theirs})
        assert patched.status_code == 200
        assert (await homing.settled(theirs)).status is Status.SUCCEEDED
        other = await homing.client.patch(f"/v1/tasks/{expected['task']['id']}", json={"provider_task_id": "another"})
        assert other.status_code == 409


async def test_expected_task_id_comes_only_from_provider(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """Without an external or attached ID, Homing polls the ID of the callback before it trusts it."""
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND)
        theirs = submit_elsewhere(sandbox, callback_url=expected.callback_url)
        sandbox.finish(theirs)
        task = await homing.settled(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        _, entries = await homing.tracker.history(ANYBODY, task.id)
        assert [entry.verdict.value for entry in entries] == ["unverified", "applied"]


async def test_adoption_trusts_only_the_provider(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, api_keys=KEYS) as homing:
        theirs = submit_elsewhere(kling_sandbox, external_task_id="mine")
        body = {"provider": "kling", "kind": KIND}
        unknown = await homing.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": "nobody"})
        assert unknown.status_code == 404
        adopted = await homing.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": theirs})
        assert adopted.status_code == 201
        again = await homing.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": theirs})
        assert again.json()["id"] == adopted.json()["id"]
        assert (await homing.settled(theirs)).status is Status.SUCCEEDED
        # Another client does not learn that the task exists.
        other = {"authorization": "Bearer made-up-third-key"}
        assert (await homing.client.get(f"{CREATE}/{theirs}", headers=other)).status_code == 401


async def test_polled_unknown_id_sends_few_requests(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        for _ in range(5):
            reply = await homing.client.get(f"{CREATE}/nobody")
            assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert kling_sandbox.ledger["requests"]["single"] == 1


async def test_shared_url_flood_leaves_budget_for_tasks(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """Unverified callbacks get a share of the ten requests in the budget, and what tasks leave over."""
    policy = replace(SILENT, budget=40, first_poll_delay=timedelta(seconds=1))
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, policy=policy, loops=False) as homing:
        url = await shared_callback_url(homing)
        ours = await homing.created()
        answers = await asyncio.gather(
            *(homing.client.post(url, json={"id": f"forged-{number}", "status": "succeeded"}) for number in range(130))
        )
        stats = (await homing.client.get("/v1/stats")).json()

        homing.clock.ahead = timedelta(minutes=5)
        counts = [await homing.reconciler.run_once() for _ in range(3)]

        assert {answer.status_code for answer in answers} == {200}
        assert (stats["orphans"], stats["orphans_not_kept"]) == ({"waiting": 100}, 30)
        assert counts[0].orphans_checked >= 1
        assert sum(one.orphans_checked for one in counts) <= 8
        assert (await homing.task(ours)).poll_count == 1
