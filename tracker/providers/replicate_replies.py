"""Reads a reply of Replicate as an outcome. Reading never raises.

Documentation: https://replicate.com/docs/reference/http. A success is the prediction itself, or a page of them. Its
client library documents an error as problem details (RFC 7807): ``title``, ``detail`` and ``status``.

Replicate knows no external ID and no idempotency key. So a wrong "nothing was made" would cost a second prediction, and
no lookup could ever correct it. Only an error of Replicate's own form proves a refusal, and a 5xx never does.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from tracker.errors import Unreadable
from tracker.model.task import Status
from tracker.model.untrusted import JsonObject, JsonValue, read_object, text
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Found,
    ListOutcome,
    Missing,
    NoSuchCall,
    Page,
    PollOutcome,
    Query,
    Rejected,
    Reply,
    SubmitOutcome,
    Unknown,
    Unsupported,
)
from tracker.providers.plain_replies import is_web_page, retry_after, unreadable_reply
from tracker.providers.replicate_reports import MESSAGE_LENGTH, callback_url_of, read_report

# 408, 409, 425 and 499 are missing on purpose: they may be about a request that was forwarded.
REFUSING: Final = frozenset({400, 402, 403, 404, 413, 415, 422})
REDIRECTS: Final = frozenset({301, 302, 307, 308})
ABSENT: Final = frozenset({404, 405})
CURSOR_LENGTH: Final = 2_048
PREDICTIONS_PER_REPLY: Final = 1_000
# Megabytes, and the secret callback URL of the task.
NOT_IN_HISTORY: Final = frozenset({"input", "logs", "webhook"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A reply that was read. ``why`` says what is wrong with an unreadable one.

    ``refusal`` is the text of an error in Replicate's form, empty if there is none.
    """

    status: int
    body: JsonObject
    refusal: str = ""
    why: str = ""

    @property
    def successful(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def outline(self) -> str:
        """A description of the reply without any text of the sender, so that every client may read it."""
        return f"HTTP {self.status}: {self.why}" if self.why else f"HTTP {self.status}"


def read_submit(reply: Reply, *, external_id: str) -> SubmitOutcome:
    """Return the outcome of a submission. Replicate takes no ``external_id``."""
    del external_id
    read = _read(reply)
    if read.successful:
        report = read_report(read.body)
        if report.provider_task_id is None:
            return unreadable_reply(reply, f"{read.outline}, but no prediction ID")
        # A created prediction is at least submitted, even if its status is unknown.
        return Accepted(report=msgspec.structs.replace(report, status=report.status or Status.SUBMITTED))
    if (common := _common(reply, read)) is not None:
        return common
    if read.status in REFUSING and read.refusal:
        return Rejected(http_status=read.status, code=read.status, message=read.refusal)
    if read.status in REDIRECTS or read.status in ABSENT:
        return NoSuchCall(why=read.outline, text=read.refusal or unreadable_reply(reply, "").excerpt)
    return _unknown(reply, read)


def read_query(reply: Reply, wanted: Query) -> PollOutcome:
    """Return the outcome of a single query."""
    read = _read(reply)
    if read.successful:
        report = read_report(read.body)
        if report.provider_task_id is None:
            return unreadable_reply(reply, f"{read.outline}, but no prediction ID")
        if report.provider_task_id != wanted.task_id or wanted.external:
            why = f"the request is about {wanted.task_id!r}, the reply about another prediction"
            return Unknown(why=why, mismatch=True)
        return _found(read.body)
    if read.status == HTTPStatus.NOT_FOUND and read.refusal:
        return Missing(message=read.refusal)
    return _common(reply, read) or _unknown(reply, read)


def read_list(reply: Reply, kind: str, cursor: str | None) -> ListOutcome:
    """Return one page of the account's predictions. An entry that cannot be read is left out."""
    del kind
    read = _read(reply)
    if not read.successful:
        if read.status in ABSENT:
            return Unsupported(why=read.outline)
        return _common(reply, read) or _unknown(reply, read)
    listed = read.body.get("results")
    if not isinstance(listed, list):
        return unreadable_reply(reply, f"{read.outline}, but no list of predictions")
    entries = [entry for entry in listed[:PREDICTIONS_PER_REPLY] if isinstance(entry, dict)]
    found = [_found(entry) for entry in entries if read_report(entry).provider_task_id is not None]
    following = _cursor(read.body.get("next"))
    # A page that leads to itself would never end.
    return Page(found=found, next=None if following == cursor else following)


def _read(reply: Reply) -> Read:
    try:
        body = read_object(reply.body)
    except Unreadable as error:
        return Read(status=reply.status, body={}, why="a web page, not JSON" if is_web_page(reply) else error.detail)
    successful = HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES
    return Read(status=reply.status, body=body, refusal="" if successful else text(body.get("detail"), MESSAGE_LENGTH))


def _common(reply: Reply, read: Read) -> Busy | BadCredential | None:
    """Return an outcome that is the same for every call, or None. A server creates nothing before it checks the key."""
    if read.status == HTTPStatus.UNAUTHORIZED:
        return BadCredential(code=read.status, message=read.refusal or read.outline)
    if read.status == HTTPStatus.TOO_MANY_REQUESTS:
        message = read.refusal or "too many requests"
        return Busy(http_status=read.status, code=read.status, message=message, retry_after=retry_after(reply.headers))
    return None


def _unknown(reply: Reply, read: Read) -> Unknown:
    if read.refusal:
        return Unknown(why=read.outline, excerpt=read.refusal)
    unreadable = unreadable_reply(reply, read.outline)
    # An unreadable answer with a server error is an outage, and no sign of another API.
    broken = read.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return Unknown(why=unreadable.why, unreadable=not broken, excerpt=unreadable.excerpt)


def _found(prediction: JsonObject) -> Found:
    """Return a found prediction. The history gets only a part of its JSON."""
    kept = {name: value for name, value in prediction.items() if name not in NOT_IN_HISTORY}
    body = json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()
    return Found(report=read_report(prediction), body=body, callback_url=callback_url_of(prediction))


def _cursor(following: JsonValue) -> str | None:
    """Return the cursor in the address of the next page. Homing sends it to its own base URL, not to that address."""
    if not isinstance(following, str):
        return None
    try:
        found = parse_qs(urlsplit(following).query).get("cursor", [""])[0]
    except ValueError:
        return None
    return found if 0 < len(found) <= CURSOR_LENGTH and found.isprintable() else None
