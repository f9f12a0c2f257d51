"""Providers that send signed callbacks to task callback URLs, concurrently over persistent connections.

They know only which callbacks were answered, and how.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from homing.sandbox.signing import sign
from tests.support.builders import NOW, a_task
from tracker.model.task import Task
from tracker.rules import callback_tokens

CALLBACK_SECRET: Final = "made-up-secret-of-the-callback-urls"
WEBHOOK_SECRET: Final = f"whsec_{base64.b64encode(b'a made-up key of the provider...').decode()}"
SECRETS: Final = {"callback_secrets": CALLBACK_SECRET, "kling_webhook_secrets": WEBHOOK_SECRET}
SENT_AT: Final = int(NOW.timestamp() * 1000)
# The reported statuses, sent in any order. `failed` is older than `succeed`, which ends each task.
STATUSES: Final = ("submitted", "processing", "failed", "succeed")
NEVER: Final = NOW + timedelta(days=100 * 365)
LOST: Final = 0
PATIENCE: Final = 30.0
PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message of the provider about one task; it is the same message however often it is sent."""

    task_id: str
    webhook_id: str
    body: bytes = field(repr=False)

    def request(self) -> bytes:
        """Sign it now, as a sender does that sends again, and write it as HTTP."""
        token = callback_tokens.mint([CALLBACK_SECRET.encode()], provider="kling", task_id=self.task_id)
        at = int(datetime.now(UTC).timestamp())
        return (
            f"POST /callbacks/kling/{token} HTTP/1.1\r\nhost: homing.test\r\ncontent-length: {len(self.body)}\r\n"
            f"webhook-id: {self.webhook_id}\r\nwebhook-timestamp: {at}\r\n"
            f"webhook-signature: {sign(WEBHOOK_SECRET, self.webhook_id, at, self.body)}\r\n\r\n"
        ).encode() + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP status, LOST where none came, and the answer's headers."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Senders:
    """``count`` connections to one port. ``acknowledged`` has the callbacks that Homing acknowledged."""

    port: int
    count: int = 32
    acknowledged: set[Delivery] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    hasty: list[Answer] = field(default_factory=list)
    heard: Callable[[], None] = lambda: None

    async def send(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Send each once, and give those that were not acknowledged."""
        waiting = iter(deliveries)
        left: list[Delivery] = []
        await asyncio.gather(*(self._send(waiting, left) for _ in range(self.count)))
        return left

    async def insist(self, deliveries: Iterable[Delivery]) -> None:
        """Send each again and again, until all are acknowledged."""
        left = list(deliveries)
        while left:
            left = await self.send(left)
            await asyncio.sleep(PAUSE)

    async def _send(self, waiting: Iterable[Delivery], left: list[Delivery]) -> None:
        connection: Connection | None = None
        try:
            for delivery in waiting:
                answer = Answer(status=LOST)
                try:
                    connection = connection or await Connection.open(self.port)
                    async with asyncio.timeout(PATIENCE):
                        answer = await connection.ask(delivery.request())
                except (OSError, EOFError):
                    # A server that was killed, or is not there at all: the next delivery tries a new connection.
                    await asyncio.sleep(0)
                if connection is not None and answer.status == LOST:
                    connection.close()
                    connection = None
                self._note(delivery, answer, left)
        finally:
            if connection is not None:
                connection.close()

    def _note(self, delivery: Delivery, answer: Answer, left: list[Delivery]) -> None:
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.acknowledged.add(delivery)
        else:
            left.append(delivery)
        if answer.status in {429, 503} and "retry-after" not in answer.headers:
            self.hasty.append(answer)
        self.heard()


class Connection:
    """One kept HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> Answer:
        """Raise OSError or EOFError where the connection ends before its answer does."""
        if self._writer.is_closing():
            raise ConnectionResetError
        # Not drained: a server may answer, and close, before it has read all of a request.
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        await self._reader.readexactly(int(headers["content-length"]))
        return Answer(status=int(head[0].split(" ")[1]), headers=headers)

    def close(self) -> None:
        self._writer.transport.abort()


def tasks(first: int, count: int) -> list[Task]:
    """Create tasks that exist at the provider and wait only for callbacks.

    They are as old as the test data, and the servers use today's clock, so none may expire.
    """
    return [
        a_task(number, provider_task_id=f"provider-{number}", deadline_at=NEVER)
        for number in range(first, first + count)
    ]


def deliveries(task: Task, statuses: Sequence[str] = STATUSES) -> list[Delivery]:
    """Make the messages about one task; all of them are different."""
    return [_delivery(task, status, at) for at, status in enumerate(statuses)]


def _delivery(task: Task, status: str, at: int) -> Delivery:
    webhook_id = f"msg_{task.provider_task_id}_{at}"
    report: dict[str, Any] = {
        "task_id": task.provider_task_id,
        "task_status": status,
        "task_info": {"external_task_id": task.sent_external_id},
        "created_at": SENT_AT,
        "updated_at": SENT_AT + at,
        "message_of_the_test": webhook_id,
    }
    if status == "succeed":
        report["task_result"] = {"images": [{"index": 0, "url": f"https://results.example/{webhook_id}.png"}]}
    return Delivery(task_id=task.id, webhook_id=webhook_id, body=json.dumps(report).encode())
