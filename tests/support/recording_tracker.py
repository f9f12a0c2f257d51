"""A tracker that only records its input, and bare ASGI calls, for the receiver's unit tests."""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook
from starlette.types import Message, Scope

from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tracker.model.records import Arrived, SharedCallbackUrl
from tracker.model.task import Recorded, Verdict
from tracker.providers.base import Account
from tracker.providers.kling import Kling
from tracker.rules import callback_tokens

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINTING = b"a made-up secret that mints URLs"
SECRET = f"whsec_{base64.b64encode(b'a made-up secret of the console.').decode()}"
ATTACKERS_SECRET = f"whsec_{base64.b64encode(b'a made-up secret of an attacker.').decode()}"
TASK = "hm01jd5c8xkw3v5m2n7p9q4r6s8t"
TOKEN = callback_tokens.mint([MINTING], provider="kling", task_id=TASK)
OTHER_TOKEN = callback_tokens.mint([MINTING], provider="kling", task_id="hm01otherothertask")
SHARED_TOKEN = callback_tokens.shared_token(b"r" * callback_tokens.SHARED_BYTES)
SHARED_URL = SharedCallbackUrl(
    id=7, provider="kling", kind=None, client="local", created_at=NOW, revoked_at=None, label=""
)
PATH = f"/callbacks/kling/{TOKEN}"
SHARED_PATH = f"/callbacks/kling/{SHARED_TOKEN}"
BODY = b'{"id":"1234567890","status":"succeeded","message":"a made-up prompt","external_id":"x","outputs":[]}'
SIGNING = ReceiverSettings(webhook_secrets={"kling": (SECRET,)})
OPEN = ReceiverSettings()
RECORDED = {"status": "recorded"}


def kling_account() -> Account:
    return Account(name="default", provider=Kling(), base_url="http://127.0.0.1", credential=None)


@dataclass
class WritingTracker:
    """Verify tokens like the real tracker and keep the callbacks, after ``gate`` opens, unless it ``fails``."""

    providers: dict[str, Account] = field(default_factory=lambda: {"kling": kling_account()})
    now: datetime = NOW
    shared_urls: dict[str, SharedCallbackUrl] = field(default_factory=lambda: {SHARED_TOKEN: SHARED_URL})
    given: list[Arrived] = field(default_factory=list)
    fails: Exception | None = None
    gate: asyncio.Event | None = None
    began: int = 0
    looked_up: int = 0

    @property
    def clock(self) -> Callable[[], datetime]:
        return lambda: self.now

    def task_of_token(self, provider: str, token: str) -> str | None:
        return callback_tokens.check(token, [MINTING], provider=provider)

    async def shared_callback_url(self, provider: str, token: str) -> SharedCallbackUrl | None:
        self.looked_up += 1
        if self.fails is not None:
            raise self.fails
        found = self.shared_urls.get(token)
        return found if found is not None and found.provider == provider else None

    async def record(self, delivery: Arrived) -> Recorded:
        """Write, also for a caller that goes away, as the tracker's queue does."""
        writing = asyncio.create_task(self._write(delivery))
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(writing)

    async def _write(self, delivery: Arrived) -> Recorded:
        self.began += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.given.append(delivery)
        return Recorded(task_id=delivery.task_id, verdict=Verdict.APPLIED, why="made up", orphan=False)


def client(tracker: WritingTracker, settings: ReceiverSettings = OPEN) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_receiver(tracker, settings))
    return httpx.AsyncClient(transport=transport, base_url="http://receiver")


def signed(body: bytes = BODY, *, secret: str = SECRET, at: datetime = NOW, webhook_id: str = "42") -> dict[str, str]:
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
    }


async def post(
    tracker: WritingTracker,
    settings: ReceiverSettings = OPEN,
    *,
    path: str = PATH,
    body: bytes = BODY,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    async with client(tracker, settings) as http:
        return await http.post(path, content=body, headers=headers)


def only(tracker: WritingTracker) -> Arrived:
    [arrived] = tracker.given
    return arrived


FORGED = signed(secret=ATTACKERS_SECRET)


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Leave out the lines of the tests' own HTTP client."""
    return [each for each in caplog.records if not each.name.startswith("http")]


# A bare ASGI server


Receiving = Callable[[], Awaitable[Message]]


async def unread() -> Message:
    raise AssertionError("the body was read")


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def playing(messages: list[Message]) -> Receiving:
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


def scope(path: str = PATH, method: str = "POST", http_version: str = "1.1") -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "http_version": http_version,
    }


async def call(
    tracker: WritingTracker,
    settings: ReceiverSettings = OPEN,
    *,
    path: str = PATH,
    method: str = "POST",
    headers: list[tuple[bytes, bytes]] | None = None,
    receive: Receiving | None = None,
    http_version: str = "1.1",
    sent: list[Message] | None = None,
) -> list[Message]:
    sent = [] if sent is None else sent

    async def send(message: Message) -> None:
        sent.append(message)

    where = {**scope(path, method, http_version), "headers": headers or []}
    await create_receiver(tracker, settings)(where, receive or playing([{"type": "http.request", "body": BODY}]), send)
    return sent


def status_of(sent: list[Message]) -> int:
    start, body = sent
    assert json.loads(body["body"])["status"] in {"recorded", "refused", "unavailable"}
    status: int = start["status"]
    return status


def header(sent: list[Message], name: bytes) -> bytes | None:
    values: dict[bytes, bytes] = dict(sent[0]["headers"])
    return values.get(name)
