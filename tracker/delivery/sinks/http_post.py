"""One signed POST request, and the outcome that its response means for the event.

The signature is that of Standard Webhooks, one for each live secret. https://www.standardwebhooks.com: signed is
``{webhook-id}.{webhook-timestamp}.{body}`` with HMAC-SHA256.
"""

import asyncio
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import msgspec

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.errors import HomingError
from tracker.model.webhook_keys import written_signature
from tracker.transport import Answer, Poster, TargetRefused

# The limit for a whole request: resolving, connecting, sending and waiting for the response.
WITHIN: Final = timedelta(seconds=15)
# The maximum number of concurrent requests of one sink. It keeps the same number of connections.
WIDTH: Final = 32
LONGEST_PAUSE: Final = timedelta(days=1)


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an endpoint. Every attempt has the same ``webhook_id``."""

    url: str
    webhook_id: str
    content_type: str
    body: bytes
    keys: tuple[bytes, ...]


async def post(poster: Poster, request: WebhookRequest, *, now: datetime) -> Outcome:
    """Send a request once, within ``WITHIN``, and return its outcome."""
    headers = signature_headers(request.keys, webhook_id=request.webhook_id, at=now, body=request.body)
    headers["content-type"] = request.content_type
    try:
        answer = await poster.post(request.url, request.body, headers, within=WITHIN)
    except TargetRefused as error:
        return Outcome(delivered=False, error=error.detail, hopeless=True)
    except HomingError as error:
        return Outcome(delivered=False, error=error.detail)
    return read_answer(answer, now)


def signature_headers(keys: Sequence[bytes], *, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that verify a body, with one signature for each key."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    signatures = [written_signature(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {"webhook-id": webhook_id, "webhook-timestamp": seconds, "webhook-signature": " ".join(signatures)}


async def post_all(poster: Poster, requests: Sequence[WebhookRequest], *, now: datetime) -> list[Outcome]:
    """Send requests for different tasks at the same time. Return the outcomes in the same order."""
    return await asyncio.gather(*(post(poster, request, now=now) for request in requests))


def read_answer(answer: Answer, now: datetime) -> Outcome:
    """Return the outcome of a response: any 2xx is delivered, 410 turns the sink off, any other is retried."""
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return DELIVERED
    said = _status_line(answer.status)
    if answer.status == HTTPStatus.GONE:
        return Outcome(delivered=False, error=said, gone=True)
    if answer.status < HTTPStatus.BAD_REQUEST:
        return Outcome(delivered=False, error=f"{said}: redirects are not followed. Configure the final URL")
    return Outcome(delivered=False, error=said, retry_after=retry_after(answer.retry_after, now))


def retry_after(written: str, now: datetime) -> timedelta | None:
    """Read ``Retry-After``, in seconds or as a date. Return None if it is invalid, and at most a day."""
    if written.isascii() and written.isdigit():
        return min(timedelta(seconds=int(written[:9])), LONGEST_PAUSE)
    try:
        until = parsedate_to_datetime(written)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        return None
    return min(max(until - now, timedelta()), LONGEST_PAUSE)


def _status_line(status: int) -> str:
    """Return a status with its standard phrase. The endpoint's own phrase may contain anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}"
