"""The sandbox's Replicate, as its public client library sees it, and its webhooks."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import Webhooks, WebhookSigningSecret

from homing.sandbox import RunningSandbox
from tests.support.conditions import until
from tests.support.provider_proxy import NO_TLS
from tests.support.web_receiver import Request, WebReceiver, reply

SECRET = "whsec_bWFkZS11cC1zZWNyZXQtb2YtMzItYnl0ZXMhISE="
MODEL = "black-forest-labs/flux-schnell"


@contextmanager
def client_of(sandbox: RunningSandbox, key: str | None = None) -> Iterator[Client]:
    """Return the public client. It has no method to close its connections."""
    with httpx.HTTPTransport(verify=NO_TLS) as transport:
        yield Client(api_token=key or sandbox.api_key, base_url=sandbox.replicate_url, transport=transport)


def created(sandbox: RunningSandbox, **fields: Any) -> str:
    with client_of(sandbox) as client:
        return client.predictions.create(model=MODEL, input={}, **fields).id


def test_client_runs_a_model_and_reads_its_file(kling_sandbox: RunningSandbox) -> None:
    with client_of(kling_sandbox) as client:
        (url,) = client.run(MODEL, input={"prompt": "a cat"})

    assert httpx.get(url, verify=NO_TLS).content.startswith(b"\x89PNG")


def test_client_sees_failure_and_cancel(kling_sandbox_factory: Callable[..., RunningSandbox]) -> None:
    with client_of(kling_sandbox_factory(failure_rate=1.0)) as client:
        with pytest.raises(ModelError, match="CUDA"):
            client.run(MODEL, input={})
        prediction = client.predictions.create(model=MODEL, input={})
        prediction.cancel()

    assert prediction.status == "canceled"


def test_client_pages_through_the_list(kling_sandbox_factory: Callable[..., RunningSandbox]) -> None:
    with client_of(kling_sandbox_factory(held=True)) as client:
        made = [client.deployments.predictions.create("acme/images", input={"n": n}).id for n in range(101)]

        first = client.predictions.list()
        assert first.next is not None
        second = client.predictions.list(first.next)

    assert [prediction.id for prediction in (*first, *second)] == made[::-1]
    assert second.next is None


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/v1/models/a/b/predictions", {}, 422, "input is required"),
        ("/v1/predictions", {"input": {}}, 422, "version is required"),
        ("/v1/predictions", {"input": {}, "version": "a/b", "webhook": 7}, 422, "webhook"),
        ("/v1/models", {"input": {}}, 404, "could not be found"),
    ],
)
def test_refusal_has_title_detail_and_status(
    kling_sandbox: RunningSandbox, path: str, body: dict[str, Any], status: int, detail: str
) -> None:
    answer = httpx.post(kling_sandbox.replicate_url + path, json=body, headers=kling_sandbox.headers, verify=NO_TLS)

    assert answer.status_code == answer.json()["status"] == status
    assert detail in answer.json()["detail"]
    assert answer.json()["title"]


def test_wrong_key_and_unknown_prediction(kling_sandbox: RunningSandbox) -> None:
    with client_of(kling_sandbox, "wrong") as client, pytest.raises(ReplicateError, match="Unauthenticated"):
        client.predictions.list()
    with client_of(kling_sandbox) as client, pytest.raises(ReplicateError, match="404"):
        client.predictions.get("unknown")


async def test_only_the_final_webhook_is_sent_again(kling_sandbox_factory: Callable[..., RunningSandbox]) -> None:
    async def refuse(_: Request) -> bytes:
        return reply(500)

    sandbox = kling_sandbox_factory(held=True, webhook_secrets=(SECRET,), callback_backoff=0.02)
    async with WebReceiver(answer=refuse) as hook:
        made = await asyncio.to_thread(created, sandbox, webhook=hook.url)
        sandbox.steer_prediction(made, "process")
        sandbox.steer_prediction(made, "finish", output="a text")
        await until(lambda: len(hook.got) == 5)

    bodies = [json.loads(each.body) for each in hook.got]
    assert sorted(body["status"] for body in bodies) == ["processing", "starting", *["succeeded"] * 3]
    finals = [each for each, body in zip(hook.got, bodies, strict=True) if body["status"] == "succeeded"]
    assert len({each.headers["webhook-id"] for each in finals}) == 1
    Webhooks.validate(
        headers=finals[0].headers, body=finals[0].body.decode(), secret=WebhookSigningSecret(key=SECRET), tolerance=60
    )


async def test_webhooks_follow_the_events_filter(kling_sandbox_factory: Callable[..., RunningSandbox]) -> None:
    sandbox = kling_sandbox_factory(held=True)
    async with WebReceiver() as hook:
        made = await asyncio.to_thread(created, sandbox, webhook=hook.url, webhook_events_filter=["completed"])
        sandbox.steer_prediction(made, "process")
        sandbox.steer_prediction(made, "finish", status="aborted")
        await until(lambda: len(hook.got) == 1)

    assert json.loads(hook.got[0].body)["status"] == "aborted"
    assert len(sandbox.predictions[0]["callbacks"]) == 1
