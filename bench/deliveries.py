"""The load: numbered tasks and their callbacks. The functions are pure, so every process creates the same load.

Each task has three callbacks, and each callback changes the task. They are ordered in blocks: the first callbacks of
``BLOCK`` tasks, then their second, then their last. So the callbacks of one task arrive in order over any number of
connections.
"""

import base64
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from bench import shapes
from tracker.model.task import new_task_id
from tracker.rules import callback_tokens

PROVIDER: Final = "kling"
KIND: Final = "images/omni-image"
ACCOUNT: Final = "default"
CLIENT: Final = "bench"
STEPS: Final = ("submitted", "processing", shapes.SUCCEED)
BLOCK: Final = 1024
CALLBACK_SECRET: Final = "made-up-secret-of-the-callback-urls"
WEBHOOK_KEY: Final = b"made-up-key-of-the-provider-32-b"
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(WEBHOOK_KEY).decode()
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_EPOCH_MS: Final = int(_EPOCH.timestamp() * 1000)


def created_at(number: int) -> datetime:
    """Return when a task was created: a millisecond after the previous one."""
    return _EPOCH + timedelta(milliseconds=number)


def task_id(number: int) -> str:
    """Return Homing's ID of a task. The IDs sort like their numbers."""
    return new_task_id(created_at(number), number.to_bytes(10, "big"))


def provider_id(number: int) -> str:
    return str(842_250_903_000_000_000 + number)


def place_of(place: int) -> tuple[int, int]:
    """Return the number of the task and the step of the callback at a position in the order."""
    block, within = divmod(place, BLOCK * len(STEPS))
    step, number = divmod(within, BLOCK)
    return block * BLOCK + number, step


def tasks_for(callbacks: int) -> int:
    """Return how many tasks are needed for this number of callbacks, in whole blocks."""
    return -(-callbacks // (BLOCK * len(STEPS))) * BLOCK


def requests(first: int, count: int, *, now: datetime) -> Sequence[bytes]:
    """Return the raw signed HTTP requests of the callbacks from position ``first`` on."""
    return [_request(*place_of(place), timestamp=str(int(now.timestamp()))) for place in range(first, first + count)]


def body(number: int, step: int) -> bytes:
    """Return the provider's report about a task at a step, in its documented shape."""
    made = _EPOCH_MS + number
    report = shapes.legacy(
        provider_id(number),
        external_id=task_id(number),
        status=STEPS[step],
        created_ms=made,
        updated_ms=made + 20_000 * step,
    )
    return json.dumps(report, separators=(",", ":")).encode()


def _request(number: int, step: int, *, timestamp: str) -> bytes:
    token = callback_tokens.mint([CALLBACK_SECRET.encode()], provider=PROVIDER, task_id=task_id(number))
    content = body(number, step)
    webhook_id = f"msg_{provider_id(number)}_{step}"
    signed = b".".join((webhook_id.encode(), timestamp.encode(), content))
    signature = base64.b64encode(hmac.digest(WEBHOOK_KEY, signed, "sha256")).decode()
    head = (
        f"POST /callbacks/{PROVIDER}/{token} HTTP/1.1\r\n"
        "host: 127.0.0.1\r\n"
        "content-type: application/json\r\n"
        f"webhook-id: {webhook_id}\r\n"
        f"webhook-timestamp: {timestamp}\r\n"
        f"webhook-signature: v1,{signature}\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
