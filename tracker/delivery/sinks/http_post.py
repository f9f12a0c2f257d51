"""One signed POST, and what its answer means for the event.

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

# Over everything: resolving, connecting, sending, waiting for an answer.
WITHIN: Final = timedelta(seconds=15)
# Posts at once, of one sink; as many connections are kept.
WIDTH: Final = 32
LONGEST_PAUSE: Final = timedelta(days=1)


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be posted. ``webhook_id`` is the same however often it is sent."""

    url: str
    webhook_id: str
    content_type: str
    body: bytes
    keys: tuple[bytes, ...]


async def post(poster: Poster, letter: Letter, *, now: datetime) -> Outcome:
    """Post a letter once and give its outcome, within ``WITHIN``."""
    headers = signature_headers(letter.keys, webhook_id=letter.webhook_id, at=now, body=letter.body)
    headers["content-type"] = letter.content_type
    try:
        answer = await poster.post(letter.url, letter.body, headers, within=WITHIN)
    except TargetRefused as error:
        return Outcome(delivered=False, error=error.detail, hopeless=True)
    except HomingError as error:
        return Outcome(delivered=False, error=error.detail)
    return read_answer(answer, now)


def signature_headers(keys: Sequence[bytes], *, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that prove a body, with one signature for each key."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    signatures = [written_signature(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {"webhook-id": webhook_id, "webhook-timestamp": seconds, "webhook-signature": " ".join(signatures)}


async def post_all(poster: Poster, letters: Sequence[Letter], *, now: datetime) -> list[Outcome]:
    """Post letters to different tasks' receivers at once; each one's outcome, in their order."""
    return await asyncio.gather(*(post(poster, letter, now=now) for letter in letters))


def read_answer(answer: Answer, now: datetime) -> Outcome:
    """Say what a receiver's answer means: any 2xx is delivered, 410 wants no more, the rest is tried again."""
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return DELIVERED
    said = _status_line(answer.status)
    if answer.status == HTTPStatus.GONE:
        return Outcome(delivered=False, error=said, gone=True)
    if answer.status < HTTPStatus.BAD_REQUEST:
        return Outcome(delivered=False, error=f"{said}: redirects are not followed; name the final address")
    return Outcome(delivered=False, error=said, retry_after=retry_after(answer.retry_after, now))


def retry_after(written: str, now: datetime) -> timedelta | None:
    """Read ``Retry-After``, seconds or a date; None where it says nothing, a day where it says more."""
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
    """Write a status with its standard name: what the receiver calls it is not ours to repeat."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}"
