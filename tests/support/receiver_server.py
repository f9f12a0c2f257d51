"""A real tracker on SQLite behind a real server, for the receiver's integration tests."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from standardwebhooks import Webhook

from homing.server.web_server import address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.databases import sqlite_url
from tests.support.stream_sending import send
from tracker.app import create_tracker
from tracker.model.records import HistoryEntry
from tracker.model.task import Alarm, ClientIdentity, Status, Task
from tracker.service.tracker import Tracker
from tracker.settings import Settings

SECRET = f"whsec_{base64.b64encode(b'a made-up secret of the console.').decode()}"
NEXT_SECRET = f"whsec_{base64.b64encode(b'the made-up secret after that...').decode()}"
ATTACKERS_SECRET = f"whsec_{base64.b64encode(b'a made-up secret of an attacker.').decode()}"
PUBLIC = "http://callbacks.test"
ME = ClientIdentity(name="local", sees_all=True)
KIND = "images/omni-image"
PROMPT = "a made-up prompt"

Reached = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class ReceiverServer:
    tracker: Tracker
    url: str
    database: Path

    async def expect(self, external_id: str) -> tuple[Task, str]:
        """Record a task. Return it with the path of its task callback URL."""
        made = await self.tracker.expect(ME, provider="kling", kind=KIND, external_id=external_id)
        assert made.callback_url is not None
        return made.task, made.callback_url.removeprefix(PUBLIC)

    async def shared_url(self) -> tuple[int, str]:
        row, made = await self.tracker.create_callback_url(ME, provider="kling")
        return row.id, made.removeprefix(PUBLIC)

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as http:
            return await http.post(path, content=body, headers=headers)

    async def status(self, task: Task) -> Status:
        return (await self.tracker.get(ME, task.id)).status

    async def history(self, task: Task) -> list[HistoryEntry]:
        """Return the recorded callbacks only."""
        return [each for each in (await self.tracker.history(ME, task.id))[1] if each.source == "callback"]

    async def alarms(self) -> set[Alarm]:
        return {each.kind for each in (await self.tracker.stats(ME)).alarms}

    async def raw(self, *parts: bytes, hang_up: bool = False) -> bytes:
        """Send raw bytes and return the whole answer. With ``hang_up``, close without reading."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        try:
            for part in parts:
                await send(writer, part)
            return b"" if hang_up else await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()


@asynccontextmanager
async def receiver_server(folder: Path, settings: ReceiverSettings) -> AsyncIterator[ReceiverServer]:
    database = folder / "homing.db"
    tracker = create_tracker(
        Settings(
            database_url=sqlite_url(folder),
            public_url=PUBLIC,
            kling_base_url="http://127.0.0.1:9",
            kling_webhook_secrets=settings.webhook_secrets.get("kling", ()),
        )
    )
    with closing(listen("127.0.0.1", 0)) as listener:
        url = address(listener)
        async with tracker, running(create_receiver(tracker, settings), listener):
            yield ReceiverServer(tracker, url, database)


SIGNING = ReceiverSettings(webhook_secrets={"kling": (SECRET, NEXT_SECRET)})
OPEN = ReceiverSettings()


def body(external_id: str, status: str = "succeeded", *, task_id: str = "8675309", **more: object) -> bytes:
    fields = {
        "id": task_id,
        "status": status,
        "message": PROMPT,
        "external_id": external_id,
        "update_time": 1781080794151,
    }
    if status == "succeeded":
        fields["outputs"] = [{"type": "image", "url": "https://results.example/1.png"}]
    return json.dumps(fields | more).encode()


def signed(raw: bytes, *secrets: str, webhook_id: str = "1000", ago: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) - ago
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(each).sign(webhook_id, at, raw.decode()) for each in secrets),
    }
