"""Replicate through Homing: its public client at the gateway, its webhooks, and predictions with a lost reply.

The sandbox's ledger shows what was really made. No lost reply may make two predictions.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError

from homing.sandbox import RunningSandbox
from tests.support.api_server import served as served_with_relay
from tests.support.conditions import until
from tests.support.homing_server import SHORT, SILENT, Clock, HomingServer, homing_server
from tests.support.provider_proxy import NO_TLS
from tests.support.web_receiver import WebReceiver
from tracker.app import discovery_of
from tracker.model.keys import NamedKey
from tracker.model.targets import read_allowed
from tracker.model.task import Status

SECRET = "whsec_bWFkZS11cC1zZWNyZXQtb2YtMzItYnl0ZXMhISE="
MODEL = "black-forest-labs/flux-schnell"
CREATE = f"/replicate/v1/models/{MODEL}/predictions"
BODY: dict[str, Any] = {"input": {"prompt": "a red bicycle"}}
STUDIO = NamedKey(name="studio", key="made-up-studio-key")
SHOP = NamedKey(name="shop", key="made-up-shop-key")
SandboxFactory = Callable[..., RunningSandbox]


def settings_for(sandbox: RunningSandbox) -> dict[str, Any]:
    return {
        "api_keys": (STUDIO, SHOP),
        "replicate_base_url": sandbox.replicate_url,
        "replicate_api_key": sandbox.api_key,
        "replicate_webhook_secrets": sandbox.settings.webhook_secrets,
    }


@asynccontextmanager
async def served(folder: Path, sandbox: RunningSandbox, **changes: Any) -> AsyncIterator[HomingServer]:
    async with homing_server(folder, sandbox.base_url, **(settings_for(sandbox) | changes)) as homing:
        yield homing


@contextmanager
def client_of(homing: HomingServer) -> Iterator[Client]:
    with httpx.HTTPTransport(verify=NO_TLS) as transport:
        client = Client(api_token=STUDIO.key, base_url=f"{homing.url}/replicate", transport=transport)
        client.poll_interval = 0.05
        yield client


async def created(homing: HomingServer, **changes: Any) -> str:
    reply = await homing.client.post(CREATE, json=BODY | changes)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def test_public_client_runs_a_model_through_homing(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,))

    def run(homing: HomingServer) -> Any:
        with client_of(homing) as client:
            return client.run(MODEL, input={"prompt": "a cat", "num_outputs": 2})

    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        output = await asyncio.to_thread(run, homing)
        (task,) = (await homing.client.get("/v1/tasks")).json()["tasks"]

    (truth,) = sandbox.predictions
    assert output == truth["output"] == task["output"] == [asset["url"] for asset in task["result"]["assets"]]
    assert (task["status_source"], task["poll_count"]) == ({"source": "callback", "trust": "signed"}, 0)
    assert (task["provider_task_id"], task["model"]) == (truth["id"], MODEL)
    assert task["price"]["metrics"].keys() == {"predict_time"}
    assert truth["input"] == {"prompt": "a cat", "num_outputs": 2}


async def test_public_client_sees_every_way_to_submit_and_end(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(held=True)
    version = "a" * 64

    def submit(homing: HomingServer) -> None:
        with client_of(homing) as client:
            client.predictions.create(version, input={"text": "Alice"})
            client.deployments.predictions.create("acme/images", input={})

    def check(homing: HomingServer) -> None:
        with client_of(homing) as client:
            canceled, done = client.predictions.list()
            assert (done.status, done.output, done.version) == ("succeeded", {"text": "hello Alice"}, version)
            assert client.predictions.get(canceled.id).status == "canceled"
            with pytest.raises(ReplicateError, match="404"):
                client.predictions.get("unknown")
            with pytest.raises(ReplicateError, match="input must be an object"):
                client.predictions.create(version, input=None)

    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        await asyncio.to_thread(submit, homing)
        first, second = sandbox.predictions
        sandbox.steer_prediction(first["id"], "finish", output={"text": "hello Alice"})
        sandbox.steer_prediction(second["id"], "finish", status="aborted")
        for truth in (first, second):
            await homing.seen(truth["id"], lambda task: task.finished_at is not None)
        await asyncio.to_thread(check, homing)
    assert (first["version"], second["model"]) == (version, "acme/images")


async def test_failure_raises_the_error_of_the_model(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    def run(homing: HomingServer) -> None:
        with client_of(homing) as client, pytest.raises(ModelError, match="CUDA"):
            client.run(MODEL, input={})

    async with served(tmp_path, kling_sandbox_factory(failure_rate=1.0)) as homing:
        await asyncio.to_thread(run, homing)


async def test_refusal_of_replicate_reaches_client_and_makes_nothing(
    tmp_path: Path, kling_sandbox: RunningSandbox
) -> None:
    async with served(tmp_path, kling_sandbox) as homing:
        refused = await homing.client.post(CREATE, json=BODY | {"webhook_events_filter": ["later"]})
        passed = await homing.client.post("/replicate/v1/models/a/..b/predictions", json=BODY)
        absent = await homing.client.get("/replicate/v1/models")

    assert (refused.status_code, refused.json()["title"]) == (422, "Input validation failed")
    assert "webhook_events_filter" in refused.json()["detail"]
    assert passed.status_code == passed.json()["status"] == 422
    assert (absent.status_code, absent.json()["status"]) == (404, 404)
    assert kling_sandbox.predictions == []


async def test_client_webhook_gets_the_prediction_in_its_shape(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,))
    settings: dict[str, Any] = settings_for(sandbox) | {"allowed_targets": read_allowed(("127.0.0.1",))}
    async with WebReceiver() as hook, served_with_relay(tmp_path, sandbox, **settings) as homing:
        fields = {"webhook": hook.url, "webhook_events_filter": ["completed"]}
        task_id = (await homing.client.post(CREATE, json=BODY | fields)).json()["id"]
        await until(lambda: len(hook.got) == 1)
        (truth,) = sandbox.predictions

    body = json.loads(hook.got[0].body)
    assert (body["id"], body["status"], body["output"]) == (task_id, "succeeded", truth["output"])
    assert (truth["webhook_events_filter"], truth["webhook"] != hook.url) == (["start", "completed"], True)


async def test_addresses_behind_a_tls_proxy_are_https(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with served(tmp_path, kling_sandbox, policy=SILENT) as homing:
        task_id = await created(homing)
        path = f"/replicate/v1/predictions/{task_id}"
        plain = await homing.client.get(path)
        proxied = await homing.client.get(path, headers={"x-forwarded-proto": "https"})

    assert plain.json()["urls"] == {"get": homing.url + path}
    assert proxied.json()["urls"] == {"get": homing.url.replace("http://", "https://") + path}


async def test_one_api_submits_a_prediction(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    body = {"provider": "replicate", "kind": "predictions", "model": MODEL, "input": BODY, "external_id": "order-1"}
    async with served(tmp_path, kling_sandbox) as homing:
        replies = [await homing.client.post("/v1/tasks", json=body) for _ in range(2)]
        settled = await homing.settled(replies[0].json()["id"])
        wrong = await homing.client.post("/v1/tasks", json=body | {"model": "flux"})

    assert replies[0].json()["id"] == replies[1].json()["id"]
    assert (settled.status, settled.external_id, settled.sent_external_id) == (Status.SUCCEEDED, "order-1", None)
    assert "model must be" in wrong.json()["detail"]
    assert len(kling_sandbox.predictions) == 1


async def test_lost_reply_is_settled_by_the_callback_and_never_sent_again(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(
        webhook_secrets=(SECRET,), faults={"submit_reply_lost": 1.0}, hang_for=0.1, run_time=1.0
    )
    async with served(tmp_path, sandbox) as homing:
        tasks = [await created(homing, input={"prompt": f"{number}"}) for number in range(4)]
        for task_id in tasks:
            assert (await homing.settled(task_id)).status is Status.SUCCEEDED
        rows = [await homing.task(task_id) for task_id in tasks]

    truth = {one["input"]["prompt"]: one["id"] for one in sandbox.predictions}
    assert [row.provider_task_id for row in rows] == [truth[f"{number}"] for number in range(4)]
    assert len(sandbox.predictions) == 4


async def test_lost_reply_and_callbacks_are_settled_by_the_list(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(
        webhook_secrets=(SECRET,), faults={"submit_reply_lost": 1.0, "callback_lost": 1.0}, hang_for=0.1, held=True
    )
    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        first, second = await created(homing), await created(homing)
        unresolved = await homing.task(first)
        sandbox.steer_prediction(sandbox.predictions[1]["id"], "finish", output="the second")

        found = await discovery_of(homing.tracker).discover("replicate", "predictions")
        rows = [await homing.task(task_id) for task_id in (first, second)]
        alarms = await homing.alarms()

    assert (unresolved.status, unresolved.reason, unresolved.sent_external_id) == (Status.PENDING, "unresolved", None)
    assert alarms["unresolved"] == 2
    assert (found.settled, found.adopted, found.candidates) == (2, 0, [])
    assert [row.provider_task_id for row in rows] == [one["id"] for one in sandbox.predictions]
    assert [row.unproven_id_from for row in rows] == [None, None]
    assert [row.status for row in rows] == [Status.SUBMITTED, Status.SUCCEEDED]
    assert len(sandbox.predictions) == 2


async def test_reconciler_finds_a_lost_prediction_in_the_list(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(
        webhook_secrets=(SECRET,), faults={"submit_reply_lost": 1.0, "callback_lost": 1.0}, hang_for=0.1
    )
    policy = replace(SHORT, answer_within=timedelta(seconds=2), attempt=timedelta(seconds=1))
    async with served(tmp_path, sandbox, policy=policy) as homing:
        tasks = [await created(homing) for _ in range(2)]
        rows = [await homing.settled(task_id) for task_id in tasks]

    assert [row.provider_task_id for row in rows] == [one["id"] for one in sandbox.predictions]
    assert [(row.status, row.unproven_id_from) for row in rows] == [(Status.SUCCEEDED, None)] * 2
    assert sandbox.ledger["prediction_requests"]["create"] == 2


# A slow machine does not make a page of the list too old.
STEADY = replace(SHORT, absence_gap=timedelta(minutes=1))


async def test_lost_predictions_of_an_account_share_the_pages_of_its_list(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(faults={"submit_reply_lost": 1.0, "callback_lost": 1.0}, hang_for=0.1, held=True)
    clock = Clock()
    async with served(tmp_path, sandbox, policy=STEADY, loops=False, clock=clock) as homing:
        tasks = [await created(homing) for _ in range(20)]
        clock.ahead += timedelta(minutes=5)
        counts = await homing.reconciler.run_once()
        rows = [await homing.task(task_id) for task_id in tasks]

    requests = sandbox.ledger["prediction_requests"]
    assert [row.provider_task_id for row in rows] == [one["id"] for one in sandbox.predictions]
    # One search reads the page. Then each polls its task by the ID that the page shows.
    assert (requests["create"], requests["list"], requests["single"], counts.requests) == (20, 1, 20, 21)


async def test_search_of_the_list_ends_after_an_hour(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    """The request was lost on its way. The task waits for its deadline then, and is never sent again."""
    sandbox = kling_sandbox_factory(faults={"server_error": 1.0}, held=True)
    clock = Clock()
    async with served(tmp_path, sandbox, loops=False, clock=clock) as homing:
        lost = await created(homing)
        sandbox.set_faults({"server_error": 0.0})
        for _ in range(40):
            clock.ahead += timedelta(minutes=3)
            await homing.reconciler.run_once()
        row = await homing.task(lost)

    requests = sandbox.ledger["prediction_requests"]
    assert (requests["create"], sandbox.predictions) == (1, [])
    assert (row.status, row.reason, row.next_poll_at) == (Status.PENDING, "unresolved", row.deadline_at)
    assert 3 <= requests["list"] <= 30


async def test_list_entry_with_equal_input_or_foreign_webhook_never_matches(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """The request of the task never arrived. Two others in the account have its input."""
    sandbox = kling_sandbox_factory(held=True)
    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        sandbox.set_faults({"server_error": 1.0})
        lost = await created(homing)
        sandbox.set_faults({"server_error": 0.0})
        async with httpx.AsyncClient(base_url=sandbox.replicate_url, headers=sandbox.headers, verify=NO_TLS) as direct:
            for webhook in (None, "https://other.example/callbacks/replicate/1abcdef"):
                body = BODY if webhook is None else BODY | {"webhook": webhook}
                await direct.post(f"/v1/models/{MODEL}/predictions", json=body)

        found = await discovery_of(homing.tracker).discover("replicate", "predictions")
        row = await homing.task(lost)

    # Both may be the lost one. The operator decides.
    assert sorted(found.candidates) == sorted((lost, one["id"]) for one in sandbox.predictions)
    assert (found.settled, found.adopted, len(sandbox.predictions)) == (0, 0, 2)
    assert (row.status, row.provider_task_id) == (Status.PENDING, None)


async def test_forged_and_replayed_callbacks_end_nothing(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,), held=True)
    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        mine = await created(homing)
        await created(homing)
        first, second = sandbox.predictions
        forged = {"status": "succeeded", "output": "forged", "completed_at": "2026-06-10T08:40:01Z"}
        for seal in ("wrong_key", "altered", "stale", "malformed", "none"):
            sandbox.steer_prediction(first["id"], "callback", seal=seal, changes=forged)
        sandbox.steer_prediction(second["id"], "finish", output="of the other", notify=False)
        # A genuine callback of another prediction, at the URL of this task.
        sandbox.steer_prediction(second["id"], "callback", target=first["webhook"])
        await until(lambda: all(one["state"] != "waiting" for all_ in sandbox.predictions for one in all_["callbacks"]))
        row = await homing.task(mine)
        alarms = await homing.alarms()

    assert (row.status, row.facts.get("output")) == (Status.SUBMITTED, None)
    assert row.provider_task_id == first["id"]
    assert {"bad_signature", "stale_signature", "unsigned", "mismatch"} <= alarms.keys()


async def test_replayed_callback_never_names_a_lost_submission(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """A genuine callback about one's own other prediction comes to the URL of a task with a lost reply."""
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,), held=True, hang_for=0.1)
    async with served(tmp_path, sandbox) as homing:
        sandbox.set_faults({"submit_reply_lost": 1.0, "callback_lost": 1.0})
        lost = await created(homing)
        await created(homing)
        first, second = sandbox.predictions
        sandbox.steer_prediction(second["id"], "callback", target=first["webhook"])
        await homing.seen(lost, lambda task: task.poll_count > 0 and task.candidate_id is None)
        row = await homing.task(lost)
        assert (row.status, row.provider_task_id) == (Status.PENDING, None)

        sandbox.steer_prediction(first["id"], "callback")
        row = await homing.seen(lost, lambda task: task.provider_task_id is not None)

    assert row.provider_task_id == first["id"]
    assert row.unproven_id_from is None


async def test_other_clients_prediction_is_not_found_by_any_id(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    """Also while the reply to its owner is lost: the provider's answer names its owner's callback URL."""
    sandbox = kling_sandbox_factory(held=True, hang_for=0.1)
    async with served(tmp_path, sandbox, policy=SILENT) as homing:
        known = await created(homing)
        sandbox.set_faults({"submit_reply_lost": 1.0, "callback_lost": 1.0})
        lost = await created(homing)
        refs = [known, lost, *(one["id"] for one in sandbox.predictions)]
        headers = {"authorization": f"Bearer {SHOP.key}"}
        async with httpx.AsyncClient(base_url=homing.url, headers=headers, verify=NO_TLS) as thief:
            replies = [await thief.get(f"/replicate/v1/predictions/{ref}") for ref in refs]
            adopted = await thief.post(
                "/v1/tasks/adopt",
                json={"provider": "replicate", "kind": "predictions", "provider_task_id": refs[-1]},
            )
            listed = (await thief.get("/replicate/v1/predictions")).json()["results"]
        row = await homing.task(lost)

    assert [reply.status_code for reply in replies] == [404] * len(refs)
    assert (adopted.status_code, listed) == (404, [])
    assert (row.client, row.provider_task_id) == ("studio", refs[-1])


async def test_expected_prediction_is_confirmed_by_one_poll(
    tmp_path: Path, kling_sandbox_factory: SandboxFactory
) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,))
    async with served(tmp_path, sandbox, policy=SHORT) as homing:
        expected = (
            await homing.client.post("/v1/tasks/expect", json={"provider": "replicate", "kind": "predictions"})
        ).json()
        async with httpx.AsyncClient(base_url=sandbox.replicate_url, headers=sandbox.headers, verify=NO_TLS) as direct:
            await direct.post(f"/v1/models/{MODEL}/predictions", json=BODY | {"webhook": expected["callback_url"]})
        row = await homing.settled(expected["task"]["id"])

    assert (row.status, row.provider_task_id) == (Status.SUCCEEDED, sandbox.predictions[0]["id"])


async def test_orphan_at_a_shared_url_is_adopted(tmp_path: Path, kling_sandbox_factory: SandboxFactory) -> None:
    sandbox = kling_sandbox_factory(webhook_secrets=(SECRET,))
    operator = NamedKey(name="operator", key="made-up-operator-key", sees_all=True)
    async with served(tmp_path, sandbox, api_keys=(operator,)) as homing:
        shared = (await homing.client.post("/v1/callback-urls", json={"provider": "replicate"})).json()["callback_url"]
        async with httpx.AsyncClient(base_url=sandbox.replicate_url, headers=sandbox.headers, verify=NO_TLS) as direct:
            made = await direct.post(f"/v1/models/{MODEL}/predictions", json=BODY | {"webhook": shared})

        async def adopted() -> bool:
            return (await homing.client.get(f"/v1/tasks/{made.json()['id']}")).is_success

        await until(adopted)
        assert (await homing.settled(made.json()["id"])).status is Status.SUCCEEDED
