"""Webhooks and client callbacks of a served Homing: both report the end of a submitted task."""

import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as PublicWebhook

from homing.sandbox import RunningSandbox
from tests.support.api_server import OMNI, STUDIO, served
from tests.support.conditions import until
from tests.support.web_receiver import WebReceiver
from tracker.delivery.sinks.urls import parse_sinks
from tracker.errors import SettingsError
from tracker.model.targets import read_allowed
from tracker.model.webhook_keys import written_key
from tracker.service.sink_secrets import SinkSecrets

CAT = {"prompt": "a cat", "model_name": "kling-v3-omni"}
LOOPBACK = read_allowed(("127.0.0.1",))


async def test_submission_triggers_callback_and_webhook(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    async with WebReceiver() as caller, WebReceiver() as shop:
        sinks = parse_sinks(f"{shop.url}#name=shop&type=succeeded&client=studio {shop.url}#name=none&client=other")
        settings: dict[str, Any] = {"api_keys": (STUDIO,), "sinks": sinks, "allowed_targets": LOOPBACK}
        async with served(tmp_path, kling_sandbox, **settings) as homing:
            created = await homing.client.post(OMNI, json=CAT | {"callback_url": caller.url, "external_task_id": "o/1"})
            assert created.status_code == 200, created.text
            ours = created.json()["data"]["task_id"]

            async def all_received() -> bool:
                return bool(shop.got) and b'"succeed"' in b"".join(request.body for request in caller.got)

            await until(all_received)
            secrets = SinkSecrets(homing.tracker.store.secrets.get, {})
            (shop_key,), (client_key,) = await secrets.of_sink("shop"), await secrets.of_client("studio")
            shown = (await homing.client.get(f"/v1/tasks/{ours}")).json()
            gateway = (await homing.client.get(f"{OMNI}/{ours}")).json()["data"]
    (request,) = shop.got
    event = PublicWebhook(written_key(shop_key)).verify(request.body, request.headers)
    assert (event["type"], event["subject"], event["source"]) == ("homing.task.succeeded", ours, homing.url)
    assert event["data"]["result"] == shown["result"]
    bodies = [PublicWebhook(written_key(client_key)).verify(got.body, got.headers) for got in caller.got]
    assert {body["task_id"] for body in bodies} == {ours}
    statuses = [body["task_status"] for body in bodies]
    assert statuses == sorted(statuses, key=["submitted", "processing", "succeed"].index)
    assert bodies[-1]["task_result"]["images"] == gateway["task_result"]["images"]
    assert bodies[-1]["task_info"] == {"external_task_id": "o/1"}
    # The callback URL for the provider must not be visible to others.
    assert "/callbacks/" not in json.dumps([event, bodies])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://127.0.0.1/hook", "callback_url must not point to a private address"),
        ("https://0x7f.1/hook", "callback_url must not point to a private address"),
        ("https://metadata.internal/", "callback_url must not point to a host name of an internal network"),
        ("http://client.example.com/", "callback_url must be an https URL"),
        ("https://user:pass@client.example.com/", "callback_url must not contain a user name"),
        ("no address", "callback_url must be an http or https URL"),
    ],
)
async def test_forbidden_callback_url_creates_no_task(
    tmp_path: Path, kling_sandbox: RunningSandbox, url: str, says: str
) -> None:
    async with served(tmp_path, kling_sandbox) as homing:
        refused = await homing.client.post(OMNI, json=CAT | {"callback_url": url})
        assert refused.status_code == 400
        assert refused.json()["code"] == 1201
        assert says in refused.json()["message"]
        assert (await homing.client.get("/v1/tasks")).json()["tasks"] == []


async def test_invalid_sink_stops_the_start(tmp_path: Path, kling_sandbox: RunningSandbox) -> None:
    with pytest.raises(SettingsError, match="there is no module `nowhere`"):
        async with served(tmp_path, kling_sandbox, sinks=parse_sinks("python:nowhere:notify")):
            pass
