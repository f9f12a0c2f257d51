"""Webhooks of the operator and callbacks to clients, as a receiver with public libraries sees them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook as PublicWebhook
from standardwebhooks import WebhookVerificationError

from receiver.verification import CallbackRequest, StandardWebhooks
from tests.support.builders import a_task
from tests.support.databases import sqlite_url
from tests.support.fakes import new_secret
from tests.support.published_events import a_success, an_alarm, an_event
from tests.support.web_receiver import Answer, Request, WebReceiver, reply
from tracker.delivery.sinks.base import DELIVERED, Outcome, Sink
from tracker.delivery.sinks.urls import SinkContext, create_sinks, parse_sinks
from tracker.errors import StoreUnavailable
from tracker.model.clock import utc_now
from tracker.model.event import PublishedEvent
from tracker.model.targets import PUBLIC_ONLY, Allowed, read_allowed
from tracker.model.task import Status
from tracker.model.webhook_keys import webhook_key, written_key
from tracker.providers.kling import Kling
from tracker.service.sink_secrets import SinkSecrets
from tracker.storage.store import Store

LOOPBACK = read_allowed(("127.0.0.0/8",))
NEW = "whsec_" + base64.b64encode(b"the made-up new secret of a shop").decode()
OLD = "whsec_" + base64.b64encode(b"the made-up old secret of a shop").decode()
SECRETS = {"shop": (NEW,), "callbacks": (NEW,)}
SOURCE = "https://homing.example.com"


@asynccontextmanager
async def opened(
    text: str,
    *,
    secrets: SinkSecrets | None = None,
    configured: Mapping[str, Sequence[str]] = SECRETS,
    allowed: Allowed = LOOPBACK,
) -> AsyncIterator[dict[str, Sink]]:
    """Open the sinks of a setting and the sink of the client callbacks."""
    context = SinkContext(
        source=SOURCE, secrets=secrets or SinkSecrets(new_secret, configured), clock=utc_now, allowed=allowed
    )
    sinks = {sink.name: sink for _, sink in create_sinks(parse_sinks(text), context=context)}
    for sink in sinks.values():
        await sink.open()
    try:
        yield sinks
    finally:
        for sink in sinks.values():
            await sink.close()


async def outcome(answer: Answer, event: PublishedEvent | None = None) -> Outcome:
    """Return the outcome of one event at a receiver with this answer."""
    async with WebReceiver(answer=answer) as receiver, opened(f"{receiver.url}#name=shop") as sinks:
        (found,) = await sinks["shop"].send([event or an_event(a_success())])
        return found


def answering(*args: Any, **kwargs: Any) -> Answer:
    async def answer(_: Request) -> bytes:
        return reply(*args, **kwargs)

    return answer


def signatures(request: Request) -> list[str]:
    return request.headers["webhook-signature"].split(" ")


# ---- webhooks


@pytest.mark.parametrize("event", [an_event(a_success(tags=("paid", "ü"))), an_alarm()], ids=["task", "alarm"])
async def test_webhook_is_read_by_public_libraries(
    event: PublishedEvent,
) -> None:
    async with WebReceiver() as receiver, opened(f"{receiver.url}#name=shop") as sinks:
        assert await sinks["shop"].send([event]) == [DELIVERED]
        (request,) = receiver.got
    assert request.line == "POST /hook HTTP/1.1"
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["webhook-id"] == event.id
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    proof = StandardWebhooks(keys=[webhook_key(NEW)]).verify(
        CallbackRequest(headers=headers, body=request.body), now=utc_now()
    )
    assert proof.webhook_id == event.id, "a strict receiver refuses an ID with a period"
    assert PublicWebhook(NEW).verify(request.body, request.headers) == json.loads(request.body)
    parsed = from_http(HTTPMessage(headers=request.headers, body=request.body), JSONFormat())
    assert (parsed.get_id(), parsed.get_source(), parsed.get_type()) == (event.id, SOURCE, event.type)
    assert (parsed.get_subject(), parsed.get_time(), parsed.get_specversion()) == (event.subject, event.at, "1.0")
    assert parsed.get_extension("sequence") == f"{event.sequence:010}"
    assert parsed.get_extension("partitionkey") == event.subject
    assert parsed.get_datacontenttype() == "application/json"
    assert parsed.get_data() == json.loads(event.body)


async def test_webhook_rotation_accepts_both_secrets_only() -> None:
    configured = {"shop": (NEW, OLD)}
    async with WebReceiver() as receiver, opened(f"{receiver.url}#name=shop", configured=configured) as sinks:
        await sinks["shop"].send([an_event(a_success())])
        (request,) = receiver.got
    assert len(signatures(request)) == 2
    for secret in (NEW, OLD):
        PublicWebhook(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        PublicWebhook(written_key(b"another key of enough bytes")).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        PublicWebhook(NEW).verify(request.body + b" ", request.headers)


async def test_webhook_secret_is_shared_by_replicas_only(tmp_path: Path) -> None:
    async with WebReceiver() as receiver:
        url = sqlite_url(tmp_path)
        text = f"{receiver.url}#name=shop {receiver.url}#name=other"
        for _ in range(2):
            store = Store(url)
            await store.open()
            async with opened(text, secrets=SinkSecrets(store.secrets.get, {})) as sinks:
                assert await sinks["shop"].send([an_event(a_success())]) == [DELIVERED]
                assert await sinks["other"].send([an_event(a_success())]) == [DELIVERED]
                (key,) = await SinkSecrets(store.secrets.get, {}).of_sink("shop")
            await store.close()
        first, second, *again = receiver.got
    secret = written_key(key)
    assert webhook_key(secret) == key
    for request in (first, again[0]):
        PublicWebhook(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        PublicWebhook(secret).verify(second.body, second.headers)


async def test_webhook_retry_keeps_id_and_body() -> None:
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    times = iter([at, at + timedelta(hours=1)])
    context = SinkContext(
        source=SOURCE, secrets=SinkSecrets(new_secret, SECRETS), clock=lambda: next(times), allowed=LOOPBACK
    )
    async with WebReceiver() as receiver:
        ((_, _), (_, sink)) = create_sinks(parse_sinks(f"{receiver.url}#name=shop"), context=context)
        await sink.open()
        for _ in range(2):
            await sink.send([an_event(a_success())])
        await sink.close()
        first, second = receiver.got
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    seconds = [int(request.headers["webhook-timestamp"]) for request in receiver.got]
    assert seconds == [int(at.timestamp()), int(at.timestamp()) + 3600]
    assert signatures(first) != signatures(second)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_webhook_any_2xx_is_delivered(status: int) -> None:
    assert await outcome(answering(status)) == DELIVERED


async def test_webhook_410_turns_the_sink_off() -> None:
    assert await outcome(answering(410)) == Outcome(delivered=False, error="410 Gone", gone=True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_webhook_redirect_is_a_clear_failure(status: int) -> None:
    found = await outcome(answering(status, location="https://elsewhere.example/made-up-secret"))
    assert found.error.endswith("redirects are not followed. Configure the final URL")
    assert found.error.startswith(str(status))
    assert (found.delivered, found.hopeless, found.gone) == (False, False, False)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 503, 599])
async def test_webhook_other_status_is_retried_without_body(status: int) -> None:
    found = await outcome(answering(status, b"made-up-secret of the receiver"))
    assert (found.delivered, found.hopeless, found.gone) == (False, False, False)
    assert found.error.startswith(str(status))
    assert "made-up-secret" not in found.error


async def test_retry_after_is_read_as_seconds_and_date() -> None:
    assert (await outcome(answering(503, retry_after="120"))).retry_after == timedelta(minutes=2)
    assert (await outcome(answering(429, retry_after="99999999999"))).retry_after == timedelta(days=1)
    day = "Mon, 01 Jan 2024 00:00:00"
    for odd in ("soon", "-5", "", "1.5", f"{day} +9999", f"{day} +{'9' * 30}", day.replace("2024", "9" * 30)):
        assert (await outcome(answering(503, retry_after=odd))).retry_after is None
    later = datetime.now(UTC) + timedelta(hours=1)
    delay = (await outcome(answering(503, retry_after=format_datetime(later, usegmt=True)))).retry_after
    assert delay is not None
    assert timedelta(minutes=50) < delay <= timedelta(hours=1)
    before = format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)
    assert (await outcome(answering(503, retry_after=before))).retry_after == timedelta()


async def test_forbidden_target_is_retried_and_names_setting() -> None:
    async with WebReceiver() as receiver:
        specs = parse_sinks(f"https://localhost:{receiver.port}/#name=shop")
        context = SinkContext(source=SOURCE, secrets=SinkSecrets(new_secret, {}), clock=utc_now, allowed=PUBLIC_ONLY)
        ((_, _), (_, sink)) = create_sinks(specs, context=context)
        await sink.open()
        (found,) = await sink.send([an_event(a_success())])
        await sink.close()
        assert receiver.connections == 0
    assert (found.delivered, found.hopeless, found.gone) == (False, False, False)
    assert "HOMING_ALLOWED_TARGETS" in found.error


async def test_batch_is_sent_at_once_with_separate_outcomes() -> None:
    """The receiver waits for all requests of the batch before it answers one."""
    everybody = asyncio.Event()
    wave = [an_event(a_success(number), cursor=number) for number in range(1, 33)]

    async def answer(request: Request) -> bytes:
        if len(receiver.got) == len(wave):
            everybody.set()
        await everybody.wait()
        return reply(204 if request.headers["webhook-id"] != wave[7].id else 500)

    receiver = WebReceiver(answer=answer)
    async with receiver, opened(f"{receiver.url}#name=shop") as sinks:
        assert sinks["shop"].width >= len(wave)
        outcomes = await sinks["shop"].send(wave)
        assert receiver.connections <= 32
    assert [found.delivered for found in outcomes] == [number != 7 for number in range(32)]


async def test_webhook_without_secret_is_not_sent() -> None:
    async def away(name: str, fresh: bytes) -> bytes:
        del name, fresh
        raise StoreUnavailable("the database is away")

    async with WebReceiver() as receiver:
        async with opened(f"{receiver.url}#name=shop", secrets=SinkSecrets(away, {})) as sinks:
            event = an_event(a_success(client_callback_url=receiver.url))
            for sink in sinks.values():
                (found,) = await sink.send([event])
                assert found == Outcome(delivered=False, error="its secret cannot be read: the database is away")
        assert receiver.got == []


# ---- callbacks to clients


async def called_back(event: PublishedEvent, status: int = 204) -> tuple[Outcome, Request]:
    async with WebReceiver(answer=answering(status)) as receiver, opened("") as sinks:
        assert event.task is not None
        task = event.task
        moved = PublishedEvent(
            cursor=event.cursor,
            type=event.type,
            sequence=event.sequence,
            at=event.at,
            task=a_task(**{**vars(task), "client_callback_url": receiver.url}),
        )
        assert sinks["callbacks"].endpoint(moved) == f"http://127.0.0.1:{receiver.port}"
        (found,) = await sinks["callbacks"].send([moved])
        return found, receiver.got[0]


async def test_client_callback_has_the_provider_format() -> None:
    task = a_success(external_id="order-7", request={"prompt": "a cat", "watermark_info": {"enabled": True}})
    found, request = await called_back(an_event(task))
    assert found == DELIVERED
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert json.loads(request.body) == {
        "task_id": task.id,
        "task_status": "succeed",
        "task_status_msg": "",
        "task_info": {"external_task_id": "order-7"},
        "task_result": {"images": [{"index": 0, "url": "https://results.example/1.png"}]},
        "created_at": 1795435200000,
        "updated_at": 1795435200000,
        "final_unit_deduction": "8",
    }
    report = Kling().read_callback(request.body)
    assert (report.provider_task_id, report.status, report.flaw) == (task.id, Status.SUCCEEDED, None)


@pytest.mark.parametrize(
    ("status", "provider_status", "message"),
    [
        (Status.SUBMITTED, "submitted", ""),
        (Status.PROCESSING, "processing", ""),
        (Status.FAILED, "failed", ""),
        (Status.REJECTED, "failed", "the provider refused this task"),
        (Status.EXPIRED, "failed", "no result came before the deadline"),
    ],
)
async def test_client_callback_uses_provider_statuses(status: Status, provider_status: str, message: str) -> None:
    _, request = await called_back(an_event(a_task(status=status)))
    body = json.loads(request.body)
    assert (body["task_status"], body["task_status_msg"]) == (provider_status, message)


async def test_client_callback_is_signed_for_its_client() -> None:
    found, request = await called_back(an_event(a_success(client="studio")))
    assert found == DELIVERED
    secrets = SinkSecrets(new_secret, SECRETS)
    (mine,), (other,) = await secrets.of_client("studio"), await secrets.of_client("other")
    PublicWebhook(written_key(mine)).verify(request.body, request.headers)
    for key in (other, webhook_key(NEW)):
        with pytest.raises(WebhookVerificationError):
            PublicWebhook(written_key(key)).verify(request.body, request.headers)


async def test_client_callback_passes_homing_verification() -> None:
    """Homing can call another Homing, so its callbacks must pass its own strict verification."""
    _, request = await called_back(an_event(a_success()))
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    keys = await SinkSecrets(new_secret, SECRETS).of_client("studio")
    proof = StandardWebhooks(keys=keys).verify(CallbackRequest(headers=headers, body=request.body), now=utc_now())
    assert proof.webhook_id == f"{a_success().id}-3"


async def test_client_callback_410_ends_only_its_event() -> None:
    found, _ = await called_back(an_event(a_success()), 410)
    assert found == Outcome(delivered=False, error="410 Gone", hopeless=True)


async def test_client_callback_to_private_host_is_hopeless() -> None:
    async with WebReceiver() as receiver, opened("", allowed=PUBLIC_ONLY) as sinks:
        event = an_event(a_success(client_callback_url=f"https://localhost:{receiver.port}/"))
        (found,) = await sinks["callbacks"].send([event])
        assert receiver.connections == 0
    assert found.hopeless
    assert "localhost is refused" in found.error


async def test_client_callback_endpoint_for_each_event() -> None:
    async with opened("") as sinks:
        endpoint = sinks["callbacks"].endpoint
        url = "https://user:made-up-secret@client.example.com/done"
        for name in (None, "updated", "corrected"):
            assert endpoint(an_event(a_success(client_callback_url=url), name)) == "https://client.example.com:443"
        assert endpoint(an_event(a_success())) is None
        assert endpoint(an_event(a_success(client_callback_url=url, provider="another"))) is None
        assert endpoint(an_event(a_task(status=Status.PROCESSING, client_callback_url=url), "updated")) is None
        assert endpoint(an_alarm()) is None
