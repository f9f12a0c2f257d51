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
from tests.acceptance.between import Answer, Request, between, refusal
from tests.acceptance.house import ANYBODY, CREATE, KIND, SILENT, House, house, until
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


async def standing(home: House, **changes: str) -> str:
    reply = await home.client.post("/v1/callback-urls", json={"provider": "kling"} | changes)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["callback_url"])


async def orphans(home: House) -> list[dict[str, Any]]:
    return list((await home.client.get("/v1/orphans")).json()["orphans"])


async def in_state(home: House, state: str) -> bool:
    return [orphan["state"] for orphan in await orphans(home)] == [state]


# ---- standing addresses


async def test_an_unknown_task_is_adopted_once_the_provider_confirms_it(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with house(tmp_path, sandbox.base_url, policy=SILENT, api_keys=f"mine*:made-up-key-of-mine,{KEYS}") as home:
        theirs = submit_elsewhere(sandbox, callback_url=await standing(home))

        async def adopted() -> bool:
            return (await home.client.get(f"/v1/tasks/{theirs}")).status_code == 200

        await until(adopted)
        task = await home.task(theirs)
        assert (task.client, task.origin) == ("mine", "callback")
        await until(lambda: in_state(home, "adopted"))
        assert (await orphans(home))[0]["task_id"] == task.id
        # From here on the standing address serves it: what comes there unsigned brings the next question forward.
        sandbox.finish(theirs)
        await home.seen(theirs, lambda task: task.status is Status.SUCCEEDED)


async def test_a_task_that_the_provider_does_not_know_stays_a_visible_orphan(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with house(tmp_path, kling_sandbox.base_url, loops=False) as home:
        address = await standing(home)
        for _ in range(5):
            reply = await home.client.post(address, json=CONSOLE_TEST)
            assert reply.status_code == 200
        await home.reconcile(lambda: in_state(home, "orphan"), step=timedelta(seconds=40))
        (orphan,) = await orphans(home)
        assert (orphan["provider_task_id"], orphan["provider_status"]) == (CONSOLE_TEST["id"], "submitted")
        assert (orphan["callbacks"], orphan["next_poll_at"]) == (5, None)
        assert address not in json.dumps(orphan)
        assert (await home.client.get("/v1/tasks")).json()["tasks"] == []
        await home.reconciler.run_once()
    # The provider's view may lag, so it is asked a few times, however often it is told; then no more.
    assert kling_sandbox.ledger["requests"]["single"] == 3


@pytest.mark.parametrize("body", [b"", b"{", b'"text"', b'{"id": []}', b"\xff\xfe"])
async def test_nonsense_at_a_standing_address_is_kept_and_asks_nobody(
    tmp_path: Path, kling_sandbox: RunningSandbox, body: bytes
) -> None:
    async with house(tmp_path, kling_sandbox.base_url, loops=False) as home:
        reply = await home.client.post(await standing(home), content=body)
        assert reply.status_code == 200
        await home.reconciler.run_once()
        assert await in_state(home, "orphan")
    assert kling_sandbox.ledger["requests"]["single"] == 0


async def test_an_orphan_waits_while_the_provider_cannot_be_asked(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    out = True

    async def script(request: Request) -> Answer | None:
        return None if out else await request.forward()

    async with between(kling_sandbox.base_url, script) as line, house(tmp_path, line.base_url, loops=False) as home:
        theirs = submit_elsewhere(kling_sandbox)
        await home.client.post(await standing(home), json={"id": theirs, "status": "processing"})
        await home.reconciler.run_once()
        (orphan,) = await orphans(home)
        assert (orphan["state"], orphan["why"]) == ("waiting", "the provider could not be asked")
        asked = len(line.seen)
        await home.reconciler.run_once()
        assert len(line.seen) == asked
        out = False
        home.clock.ahead = timedelta(minutes=1)
        await home.reconciler.run_once()
        assert await in_state(home, "adopted")


async def test_a_callback_of_an_expected_task_finds_its_row_by_what_the_provider_says(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """The body names only the provider's id, which no row has yet; the provider's answer names the external one."""
    sandbox = kling_sandbox_factory()
    async with house(tmp_path, sandbox.base_url, policy=SILENT, loops=False) as home:
        expected = await home.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(sandbox.task(theirs)["final"])

        await until(ended)
        await home.client.post(await standing(home), json={"id": theirs, "status": "succeeded"})
        counts = await home.reconciler.run_once()
        assert (counts.orphans_checked, counts.failed) == (1, 0)
        assert await in_state(home, "adopted")
        task = await home.task(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        assert (await home.reconciler.run_once()).orphans_checked == 0


async def test_what_comes_to_a_revoked_address_is_answered_404(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with house(tmp_path, kling_sandbox.base_url, loops=False) as home:
        address = await standing(home)
        (shown,) = (await home.client.get("/v1/callback-urls")).json()["addresses"]
        assert (await home.client.delete(f"/v1/callback-urls/{shown['id']}")).status_code == 200
        assert (await home.client.post(address, json=CONSOLE_TEST)).status_code == 404
        assert await orphans(home) == []


# ---- the provider's list


async def test_the_list_is_paged_and_what_nobody_told_us_of_is_adopted_once(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    theirs = [submit_elsewhere(kling_sandbox, external_task_id=f"theirs-{number}") for number in range(3)]
    async with between(kling_sandbox.base_url) as line, house(tmp_path, line.base_url, loops=False) as home:
        ours = await home.created()
        found = await discovery_of(home.tracker).discover("kling", KIND)
        assert (found.listed, found.known, found.adopted, found.candidates) == (4, 1, 3, [])
        assert [(await home.task(ref)).origin for ref in theirs] == ["discover"] * 3
        again = await discovery_of(home.tracker).discover("kling", KIND)
        assert (again.listed, again.known, again.adopted) == (4, 4, 0)
        assert (await home.task(ours)).origin == "submit"
        pages = [request.target for request in line.seen if "pageNum" in request.target]
        assert [target.partition("?")[2].partition("&")[0] for target in pages] == ["pageNum=1", "pageNum=2"] * 2


async def test_a_list_that_cannot_be_read_is_an_error_and_not_an_end(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async def script(request: Request) -> Answer | None:
        return refusal(500, 5000) if "pageNum=2" in request.target else await request.forward()

    submit_elsewhere(kling_sandbox)
    async with between(kling_sandbox.base_url, script) as line, house(tmp_path, line.base_url, loops=False) as home:
        with pytest.raises(ProviderUnavailable):
            await discovery_of(home.tracker).discover("kling", KIND)
        # What the first page told is not lost with it.
        assert len((await home.client.get("/v1/tasks")).json()["tasks"]) == 1


async def test_discovery_of_an_expected_task_is_no_second_row(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with house(tmp_path, kling_sandbox.base_url, loops=False) as home:
        expected = await home.tracker.expect(ANYBODY, provider="kling", kind=KIND, external_id="mine")
        theirs = submit_elsewhere(kling_sandbox, external_task_id="mine")

        async def ended() -> bool:
            return bool(kling_sandbox.task(theirs)["final"])

        # Until its end the list shows no external id.
        await until(ended)
        found = await discovery_of(home.tracker).discover("kling", KIND)
        assert (found.adopted, found.settled) == (0, 1)
        assert (await home.task(theirs)).id == expected.task.id


# ---- told by hand


async def test_an_expected_task_whose_only_callback_is_lost_comes_home(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(faults={"callback_lost": 1.0})
    async with house(tmp_path, sandbox.base_url) as home:
        body = {"provider": "kling", "kind": KIND}
        told = (await home.client.post("/v1/tasks/expect", json=body)).json()
        theirs = submit_elsewhere(sandbox, callback_url=told["callback_url"])
        patched = await home.client.patch(f"/v1/tasks/{told['task']['id']}", json={"provider_task_id": theirs})
        assert patched.status_code == 200
        assert (await home.settled(theirs)).status is Status.SUCCEEDED
        other = await home.client.patch(f"/v1/tasks/{told['task']['id']}", json={"provider_task_id": "another"})
        assert other.status_code == 409


async def test_an_expected_task_learns_its_id_only_from_the_provider(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """No external id, nobody attached one: the callback's id is asked about before it is believed."""
    sandbox = kling_sandbox_factory(held=True, intermediate=False)
    async with house(tmp_path, sandbox.base_url, policy=SILENT) as home:
        expected = await home.tracker.expect(ANYBODY, provider="kling", kind=KIND)
        theirs = submit_elsewhere(sandbox, callback_url=expected.callback_url)
        sandbox.finish(theirs)
        task = await home.settled(expected.task.id)
        assert (task.status, task.provider_task_id) == (Status.SUCCEEDED, theirs)
        _, entries = await home.tracker.history(ANYBODY, task.id)
        assert [entry.verdict.value for entry in entries] == ["unverified", "applied"]


async def test_adoption_asks_the_provider_and_believes_nobody_else(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with house(tmp_path, kling_sandbox.base_url, api_keys=KEYS) as home:
        theirs = submit_elsewhere(kling_sandbox, external_task_id="mine")
        body = {"provider": "kling", "kind": KIND}
        unknown = await home.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": "nobody"})
        assert unknown.status_code == 404
        adopted = await home.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": theirs})
        assert adopted.status_code == 201
        again = await home.client.post("/v1/tasks/adopt", json=body | {"provider_task_id": theirs})
        assert again.json()["id"] == adopted.json()["id"]
        assert (await home.settled(theirs)).status is Status.SUCCEEDED
        # Another client of ours does not learn that there is such a task.
        other = {"authorization": "Bearer made-up-third-key"}
        assert (await home.client.get(f"{CREATE}/{theirs}", headers=other)).status_code == 401


async def test_a_client_that_polls_nobodys_id_is_no_stream_of_requests(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with house(tmp_path, kling_sandbox.base_url, loops=False) as home:
        for _ in range(5):
            reply = await home.client.get(f"{CREATE}/nobody")
            assert (reply.status_code, reply.json()["code"]) == (400, 1201)
    assert kling_sandbox.ledger["requests"]["single"] == 1


async def test_flood_of_a_shared_url_leaves_polls_to_the_tasks(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """Of the ten requests that the budget allows at once, what nobody signed gets what tasks leave, and a share."""
    policy = replace(SILENT, budget=40, first_poll_delay=timedelta(seconds=1))
    sandbox = kling_sandbox_factory(held=True)
    async with house(tmp_path, sandbox.base_url, policy=policy, loops=False) as home:
        url = await standing(home)
        ours = await home.created()
        answers = await asyncio.gather(
            *(home.client.post(url, json={"id": f"forged-{number}", "status": "succeeded"}) for number in range(130))
        )
        stats = (await home.client.get("/v1/stats")).json()

        home.clock.ahead = timedelta(minutes=5)
        counts = [await home.reconciler.run_once() for _ in range(3)]

        assert {answer.status_code for answer in answers} == {200}
        assert (stats["orphans"], stats["orphans_not_kept"]) == ({"waiting": 100}, 30)
        assert counts[0].orphans_checked >= 1
        assert sum(one.orphans_checked for one in counts) <= 8
        assert (await home.task(ours)).poll_count == 1
