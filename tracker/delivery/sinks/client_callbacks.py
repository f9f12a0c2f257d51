"""``callbacks``: the URL that a client gave with its create request. It gets the provider's callbacks.

The body has the format of the provider's callback, with Homing's task ID. Homing signs it as the provider would, with a
secret of the client.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from tracker.delivery.sinks.base import Outcome
from tracker.delivery.sinks.callback_filter import CALLBACKS_SPEC, SHAPES
from tracker.delivery.sinks.http_post import WIDTH, WebhookRequest, post
from tracker.errors import HomingError
from tracker.model.event import PublishedEvent
from tracker.model.sinks import CALLBACKS
from tracker.model.task import Task
from tracker.service.sink_secrets import SinkSecrets
from tracker.transport import Poster

CONTENT_TYPE: Final = "application/json; charset=utf-8"
_PORTS: Final = MappingProxyType({"http": 80, "https": 443})
_encode: Final = msgspec.json.Encoder().encode


class Callbacks:
    """The sink of the clients' callback URLs. Each host is its own endpoint, so one that is down delays no other."""

    name = CALLBACKS
    width = WIDTH

    def __init__(self, *, secrets: SinkSecrets, poster: Poster, clock: Callable[[], datetime]) -> None:
        self._secrets = secrets
        self._poster = poster
        self._clock = clock

    async def open(self) -> None:
        await self._poster.open()

    async def close(self) -> None:
        await self._poster.close()

    def endpoint(self, event: PublishedEvent) -> str | None:
        if not CALLBACKS_SPEC.filter.takes(event):
            return None
        assert event.task is not None
        return _origin(event.task.client_callback_url or "")

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        return await asyncio.gather(*map(self._send, events))

    async def _send(self, event: PublishedEvent) -> Outcome:
        task = event.task
        assert task is not None
        try:
            keys = await self._secrets.of_client(task.client)
        except HomingError as error:
            return Outcome(delivered=False, error=f"its secret cannot be read: {error.detail}")
        outcome = await post(self._poster, _request(event, task, keys), now=self._clock())
        # 410 counts for this one URL. The relay does not retry this event there.
        return structs.replace(outcome, gone=False, hopeless=True) if outcome.gone else outcome


def _request(event: PublishedEvent, task: Task, keys: tuple[bytes, ...]) -> WebhookRequest:
    return WebhookRequest(
        url=task.client_callback_url or "",
        webhook_id=event.id,
        content_type=CONTENT_TYPE,
        body=_encode(SHAPES[task.provider](task)),
        keys=keys,
    )


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, 0)}"
    except ValueError:
        return "unreadable"
