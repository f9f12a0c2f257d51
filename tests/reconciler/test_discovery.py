"""Tasks that somebody else submitted: expected, adopted, found through a callback or in the provider's list."""

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
from tests.support.homing_server import ANYBODY, CREATE, KIND, SILENT, HomingServer, homing_server, until
from tests.support.provider_proxy import Answer, Request, provider_proxy, refusal
from tracker.app import discovery_of
from tracker.errors import ProviderUnavailable
from tracker.model.task import Status

SandboxFactory = Callable[..., RunningSandbox]
KEYS = "studio:made-up-studio-key,operator*:made-up-operator-key"
DUE = timedelta(seconds=5)
# What the provider's console sends when its "test" button is pressed: published with the callback protocol.
CONSOLE_TEST = {"id": "task_made_up_by_the_console", "status": "submitted", "message": "", "outputs": []}


def submit_elsewhere(sandbox: RunningSandbox, **body: Any) -> str:
    """Create a task as the user's own code does, and give the provider's id."""
    reply = httpx.post(
        f"{sandbox.base_url}/v1/{KIND}",
        json={"prompt": "elsewhere", **body},
        headers=sandbox.headers,
        trust_env=False,
    )
    return str(reply.json()["data"]["task_id"])


async def standing(homing: HomingServer, **changes: str) -> str:
    reply = await homing.client.post("/v1/callback-urls", json={"provider": "kling"} | changes)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["callback_url"])


async def orphans(homing: HomingServer) -> list[dict[str, Any]]:
    return list((await homing.client.get("/v1/orphans")).json()["orphans"])


async def in_state(homing: HomingServer, state: str) -> bool:
    return [orphan["state"] for orphan in await orphans(homing)] == [state]


# ---- standing addresses


async def test_an_unknown_task_is_adopted_once_the_provider_confirms_it(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(
        tmp_path, sandbox.base_url, policy=SILENT, api_keys=f"mine*:made-up-key-of-mine,{KEYS}"
    ) as homing:
        theirs = submit_elsewhere(sandbox, callback_url=await standing(homing))

        async def adopted() -> bool:
            return (await homing.client.get(f"/v1/tasks/{theirs}")).status_code == 200

        await until(adopted)
        task = await homing.task(theirs)
        assert (task.client, task.origin) == ("mine", "callback")
        await until(lambda: in_state(homing, "adopted"))
        assert (await orphans(homing))[0]["task_id"] == task.id
        # From here on the standing address serves it: what comes there unsigned brings the next question forward.
        sandbox.finish(theirs)
        await homing.seen(theirs, lambda task: task.status is Status.SUCCEEDED)


async def test_a_task_that_the_provider_does_not_know_stays_a_visible_orphan(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        address = await standing(homing)
        for _ in range(5):
            reply = await homing.client.post(address, json=CONSOLE_TEST)
            assert reply.status_code == 200
        await homing.reconcile(lambda: in_state(homing, "orphan"), step=timedelta(seconds=40))
        (orphan,) = await orphans(homing)
        assert (orphan["provider_task_id"], orphan["provider_status"]) == (CONSOLE_TEST["id"], "submitted")
        assert (orphan["callbacks"], orphan["next_poll_at"]) == (5, None)
        assert address not in json.dumps(orphan)
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []
        await homing.reconciler.run_once()
    # The provider's view may lag, so it is asked a few times, however often it is told; then no more.
    assert kling_sandbox.ledger["requests"]["single"] == 3


@pytest.mark.parametrize("body", [b"", b"{", b'"text"', b'{"id": []}', b"\xff\xfe"])
async def test_nonsense_at_a_standing_address_is_kept_and_asks_nobody(
    tmp_path: Path, kling_sandbox: RunningSandbox, body: bytes
) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        reply = await homing.client.post(await standing(homing), content=body)
        assert reply.status_code == 200
        await homing.reconciler.run_once()
        assert await in_state(homing, "orphan")
    assert kling_sandbox.ledger["requests"]["single"] == 0


async def test_an_orphan_waits_while_the_provider_cannot_be_asked(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    out = True

    async def script(request: Request) -> Answer | None:
        return None if out else await request.forward()

    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        theirs = submit_elsewhere(kling_sandbox)
        await homing.client.post(await standing(homing), json={"id": theirs, "status": "processing"})
        await homing.reconciler.run_once()
        (orphan,) = await orphans(homing)
        assert (orphan["state"], orphan["why"]) == ("waiting", "the provider could not be asked")
        asked = len(line.seen)
        await homing.reconciler.run_once()
        assert len(line.seen) == asked
        out = False
        homing.clock.ahead = timedelta(minutes=1)
        await homing.reconciler.run_once()
        assert await in_state(homing, "adopted")


async def test_a_callback_of_an_expected_task_finds_its_row_by_what_the_provider_says(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """The body names only the provider's id, which no row has yet; the provider's answer names the external one."""
    sandbox = kling_sandbox_factory()
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT, loops=False) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(sandbox.task(theirs)["final"])

        await until(ended)
        await homing.client.post(await standing(homing), json={"id": theirs, "status": "succeeded"})
        counts = await homing.reconciler.run_once()
        assert (counts.orphans_checked, counts.failed) == (1, 0)
        assert await in_state(homing, "adopted")
        task = await homing.task(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        assert (await homing.reconciler.run_once()).orphans_checked == 0


async def test_what_comes_to_a_revoked_address_is_answered_404(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        address = await standing(homing)
        (shown,) = (await homing.client.get("/v1/callback-urls")).json()["addresses"]
        assert (await homing.client.delete(f"/v1/callback-urls/{shown['id']}")).status_code == 200
        assert (await homing.client.post(address, json=CONSOLE_TEST)).status_code == 404
        assert await orphans(homing) == []


# ---- the provider's list


async def test_the_list_is_paged_and_what_nobody_told_us_of_is_adopted_once(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
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


async def test_a_list_that_cannot_be_read_is_an_error_and_not_an_end(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async def script(request: Request) -> Answer | None:
        return refusal(500, 5000) if "pageNum=2" in request.target else await request.forward()

    submit_elsewhere(kling_sandbox)
    async with (
        provider_proxy(kling_sandbox.base_url, script) as line,
        homing_server(tmp_path, line.base_url, loops=False) as homing,
    ):
        with pytest.raises(ProviderUnavailable):
            await discovery_of(homing.tracker).discover("kling", KIND)
        # What the first page told is not lost with it.
        assert len((await homing.client.get("/v1/tasks")).json()["tasks"]) == 1


async def test_discovery_of_an_expected_task_is_no_second_row(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(kling_sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(kling_sandbox.task(theirs)["final"])

        # Until its end the list shows no external id.
        await until(ended)
        found = await discovery_of(homing.tracker).discover("kling", KIND)
        assert (found.adopted, found.settled) == (0, 1)
        assert (await homing.task(theirs)).id == expected.task.id


# ---- told by hand


async def test_an_expected_task_whose_only_callback_is_lost_comes_home(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_lost": 1.0})
    async with homing_server(tmp_path, sandbox.base_url) as homing:
        body = {"provider": "kling", "kind": KIND}
        told = (await homing.client.post("/v1/tasks/expect", json=body)).json()
        theirs = submit_elsewhere(sandbox, callback_url=told["callback_url"])
        patched = await homing.client.patch(f"/v1/tasks/{told['task']['id']}", json={"provider_task_id": theirs})
        assert patched.status_code == 200
        assert (await homing.settled(theirs)).status is Status.SUCCEEDED
        other = await homing.client.patch(f"/v1/tasks/{told['task']['id']}", json={"provider_task_id": "another"})
        assert other.status_code == 409


async def test_an_expected_task_learns_its_id_only_from_the_provider(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """No external id, nobody attached one: the callback's id is asked about before it is believed."""
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    async with homing_server(tmp_path, sandbox.base_url, policy=SILENT) as homing:
        expected = await homing.tracker.expect(ANYBODY, provider="kling", kind=KIND)
        theirs = submit_elsewhere(sandbox, callback_url=expected.callback_url)
        sandbox.finish(theirs)
        task = await homing.settled(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        _, entries = await homing.tracker.history(ANYBODY, task.id)
        assert [entry.verdict.value for entry in entries] == ["unverified", "applied"]


async def test_adoption_asks_the_provider_and_believes_nobody_else(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
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
        # Another client of ours does not learn that there is such a task.
        other = {"authorization": "Bearer made-up-third-key"}
        assert (await homing.client.get(f"{CREATE}/{theirs}", headers=other)).status_code == 401


async def test_a_client_that_polls_nobodys_id_is_no_stream_of_requests(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with homing_server(tmp_path, kling_sandbox.base_url, loops=False) as homing:
        for _ in range(5):
            reply = await homing.client.get(f"{CREATE}/nobody")
            assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert kling_sandbox.ledger["requests"]["single"] == 1


async def test_flood_of_a_shared_url_leaves_polls_to_the_tasks(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """Of the ten requests that the budget allows at once, what nobody signed gets what tasks leave, and a share."""
    policy = replace(SILENT, budget=40, first_poll_delay=timedelta(seconds=1))
    sandbox = kling_sandbox_factory(held=True)
    async with homing_server(tmp_path, sandbox.base_url, policy=policy, loops=False) as homing:
        url = await standing(homing)
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
