"""What a reply of Kling means: HTTP status and code to an outcome, as tables. Reading never raises.

Documentation: https://kling.ai/document-api/api/get-started/error-codes. Every reply is ``{code, message, request_id,
data}``; a code other than 0 is an error even with HTTP 200.

The one rule that all the others serve: "nothing was made" is only ever read from Kling's own refusal. A page of some
proxy, a time-out, a code that contradicts its HTTP status or that nobody documented as a refusal proves nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import msgspec

from tracker.bounds import JsonObject, JsonValue, identifier, read_object, text
from tracker.errors import Unreadable
from tracker.models import Claim, Status
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Duplicate,
    Found,
    ManyOutcome,
    Missing,
    PollOutcome,
    Rejected,
    Reply,
    SubmitOutcome,
    Unknown,
    Unsupported,
)
from tracker.providers.kling_claims import MESSAGE_LENGTH, NESTING, read_claim, task_of, tasks_in

# The documented codes, by what they mean to us.
OUR_CREDENTIAL: Final = frozenset({1000, 1001, 1002, 1003, 1004, 1304})  # 1304: our address is not allowed
REFUSALS: Final = frozenset({1100, 1101, 1102, 1103, 1200, 1201, 1202, 1203, 1300, 1301})
TRY_LATER: Final = frozenset({1302, 1303})
MAINTENANCE: Final = 5001
# 5000 and 5002 are left out on purpose: after them a task may exist, as after anything undocumented.

NO_SUCH_KEY_VALUE: Final = 1201
INVALID_AUTHORIZATION: Final = 1002
NO_SUCH_CALL: Final = frozenset({1202, 1203})
# Observed live; the table would have it 404/1203, which therefore may mean a missing path as well as a missing task.
NOT_FOUND: Final = "Task not found by id/external id: {id}"
TAKEN: Final = re.compile(r"external[ _-]?(task[ _-]?)?id\b.*\b(already|exists?|duplicated?|in use|taken)\b", re.DOTALL)

# The HTTP statuses that the table gives to refusals, and the family of codes: an undocumented code of that family in
# Kling's own envelope is still a refusal. 408, 425 or 499 never are: they tell of a request that was not finished.
REFUSING: Final = frozenset({400, 401, 403, 404, 429})
REFUSING_CODES: Final = range(1100, 2000)
CREDENTIAL_CODES: Final = range(1000, 1100)
# How gateways write the code of a success, beside the documented 0.
SUCCESS_WORDS: Final = frozenset({"0", "200", "success"})
LONGEST_WAIT: Final = timedelta(days=1)
EXCERPT_LENGTH: Final = 4_096
TASKS_PER_REPLY: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    """Kling's own envelope; ``code`` None where the bytes hold none (``message`` then says what is wrong).

    ``signed_off`` marks a request id: what Kling itself wrote has one.
    """

    status: int
    code: int | None
    message: str
    body: JsonObject
    signed_off: bool = False

    @property
    def fine(self) -> bool:
        return self.code == 0 and self.successful

    @property
    def successful(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def broken(self) -> bool:
        """A server's trouble: whatever the code says, the request may have done its work."""
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def outline(self) -> str:
        """What came, without a word of whoever sent it: any client may read it."""
        if self.code is None:
            return f"HTTP {self.status}: {self.message}"
        return f"HTTP {self.status}, code {self.code}"

    def described(self) -> str:
        """Say in words what came, for the history."""
        if self.code is None:
            return f"HTTP {self.status}: {self.message}"
        return f"HTTP {self.status}, code {self.code}: {self.message[:200] or 'no message'}"


def read_submit(reply: Reply, *, external_id: str) -> SubmitOutcome:
    """Tell what became of a submit that carried ``external_id``."""
    envelope = _open(reply)
    if envelope.fine:
        return _made(envelope, external_id)
    common = _common(reply, envelope)
    if isinstance(common, Busy | BadCredential):
        return common
    if _says_taken(envelope, external_id):
        return Duplicate(why=f"{envelope.described()}: a task exists under our external id")
    if common is not None:
        return common
    if envelope.code is not None and _refuses(envelope):
        return Rejected(http_status=envelope.status, code=envelope.code, message=envelope.message)
    return Unknown(why=envelope.described())


def read_query(reply: Reply, *, task_id: str, external: bool) -> PollOutcome:
    """Tell what a single query about ``task_id`` brought; ``external`` where that is an external id."""
    envelope = _open(reply)
    if _says_missing(envelope, task_id):
        return Missing(message=envelope.message)
    told = tasks_in(envelope.body) if envelope.successful and envelope.code in {0, None} else []
    claims = [(read_claim(task), task) for task in reversed(told)]
    for claim, task in claims:
        if task_id == claim.external_id or (task_id == claim.provider_task_id and not external):
            return _found(claim, task)
    if not envelope.fine:
        denial = "" if envelope.code is None else ": not the documented not-found answer"
        return _common(reply, envelope, query=True) or _unread(reply, envelope.outline + denial)
    if not claims:
        return _unread(reply, f"{envelope.outline}, but no task")
    claim, task = claims[0]
    # Until a task ends, Kling shows no external id of it. The id in the path may be of either sort: where it is the
    # task's own, the reply is about somebody's task whose provider id was given out as an external id.
    by_provider_id = any(one.provider_task_id == task_id for one, _ in claims)
    if external and claim.external_id is None and claim.provider_task_id is not None and not by_provider_id:
        return _found(claim, task)
    return Unknown(why=f"asked about {task_id!r}, the reply is about another task", mismatch=True)


def read_many(reply: Reply) -> ManyOutcome:
    """Tell which tasks a ``/tasks`` query or a page of a list holds; an entry that cannot be read is left out."""
    envelope = _open(reply)
    if envelope.fine:
        listed = _list_in(envelope.body)
        if listed is None:
            return _unread(reply, f"{envelope.outline}, but no list of tasks")
        return list(_each(listed[:TASKS_PER_REPLY]))
    if (absent := _absent_call(reply, envelope)) is not None:
        return absent
    return _common(reply, envelope, query=True) or _unread(reply, envelope.outline)


def read_batch(reply: Reply) -> ManyOutcome:
    """Read ``/tasks``, where 401/1002 says that an AK/SK token is not taken *here* (live), not that it is bad."""
    envelope = _open(reply)
    no_key_pairs = envelope.status == HTTPStatus.UNAUTHORIZED and envelope.code in {INVALID_AUTHORIZATION, None}
    if no_key_pairs:
        return Unsupported(why=envelope.outline)
    return read_many(reply)


def read_callback(body: bytes) -> Claim:
    """Read a delivery: the bare task (documented), or the same in the reply's envelope (as some receivers report)."""
    try:
        value = read_object(body)
    except Unreadable as error:
        return Claim(flaw=error.detail)
    if code := _code(value.get("code")):
        return Claim(flaw=f"an error with code {code}, not a task")
    # A body that names no task, nor has one inside, says so when it is read as a task itself.
    wrapped = task_of(value) if "data" in value else None
    return read_claim(wrapped or value)


def _open(reply: Reply) -> _Envelope:
    try:
        body = read_object(reply.body)
    except Unreadable as error:
        return _Envelope(status=reply.status, code=None, message=_form(reply) or error.detail, body={})
    code = _code(body.get("code"))
    if code is None:
        return _Envelope(status=reply.status, code=None, message="the JSON is not Kling's envelope", body=body)
    message = text(body.get("message"), MESSAGE_LENGTH)
    signed_off = identifier(body.get("request_id")) is not None
    return _Envelope(status=reply.status, code=code, message=message, body=body, signed_off=signed_off)


def _form(reply: Reply) -> str:
    """Name what is no JSON, where its form is a common one."""
    if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST:
        return "a redirect"
    return "a web page, not JSON" if _is_page(reply) else ""


def _is_page(reply: Reply) -> bool:
    return "html" in reply.headers.get("content-type", "").lower() or reply.body.lstrip()[:1] == b"<"


def _unread(reply: Reply, why: str) -> Unknown:
    """Say that an answer came that cannot be read, with how it begins; a redirect begins with where it leads."""
    target = reply.headers.get("location", "")
    told = f"location: {target} " if target else ""
    text = told + reply.body[:EXCERPT_LENGTH].decode(errors="replace")
    return Unknown(why=why, unreadable=True, excerpt=text[:EXCERPT_LENGTH])


def _made(envelope: _Envelope, external_id: str) -> SubmitOutcome:
    """Read a create's success. Its ``data`` is the task; one gateway writes the task beside the code instead."""
    task = task_of(envelope.body)
    claim = read_claim(task) if task is not None else None
    if claim is None or claim.provider_task_id is None:
        return Unknown(why=f"{envelope.described()}, but no task id")
    if claim.external_id not in {None, external_id}:
        return Unknown(why=f"the reply carries external id {claim.external_id!r}, not {external_id!r}")
    # Whatever word came with it: a task that was made is at least submitted.
    claim = msgspec.structs.replace(claim, status=claim.status or Status.SUBMITTED)
    return Accepted(claim=claim)


def _common(reply: Reply, envelope: _Envelope, *, query: bool = False) -> Busy | BadCredential | Unknown | None:
    """Read what means the same after every call; a ``query`` makes nothing, so its HTTP status may speak alone."""
    code, message = envelope.code, envelope.message
    why = envelope.outline if query else envelope.described()
    if code == MAINTENANCE:
        return Unknown(why=why, unavailable=True)
    if envelope.broken:
        return Unknown(why=why)
    if code in TRY_LATER or (query and code is None and envelope.status == HTTPStatus.TOO_MANY_REQUESTS):
        wait = retry_after(reply.headers)
        return Busy(http_status=envelope.status, code=code or 0, message=message, retry_after=wait)
    if code in OUR_CREDENTIAL or (code in CREDENTIAL_CODES and envelope.signed_off):
        return BadCredential(code=code or 0, message=message)
    if query and envelope.status == HTTPStatus.UNAUTHORIZED:
        return BadCredential(code=code or 0, message=message)
    return None


def _refuses(envelope: _Envelope) -> bool:
    if envelope.code in REFUSALS:
        return envelope.status in REFUSING or envelope.successful
    return envelope.code in REFUSING_CODES and envelope.status in REFUSING and envelope.signed_off


def _says_taken(envelope: _Envelope, external_id: str) -> bool:
    """Return whether an error says that our external id is taken.

    Live: 400/1201 "External_task_id <ours> already exists". A gateway may name the id that it renamed ours to, and may
    wrap the words in an error of its own. We send one external id only, so it is ours that is taken; and no refusal
    that speaks of our id at all proves that nothing was made.
    """
    if envelope.code is None:
        return False
    message = envelope.message.casefold()
    return external_id.casefold() in message or TAKEN.search(message) is not None


def _says_missing(envelope: _Envelope, task_id: str) -> bool:
    exact = envelope.message.strip() == NOT_FOUND.format(id=task_id)
    return exact and envelope.status == HTTPStatus.BAD_REQUEST and envelope.code == NO_SUCH_KEY_VALUE


def _absent_call(reply: Reply, envelope: _Envelope) -> Unsupported | None:
    """Recognise an address that has no such call: its 404 or 405, the table's codes, or its web page for any path."""
    page = envelope.successful and envelope.code is None and _is_page(reply)
    by_status = envelope.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    if page or by_status or (envelope.code in NO_SUCH_CALL and not envelope.broken):
        return Unsupported(why=envelope.outline)
    return None


def _list_in(body: JsonObject) -> list[JsonValue] | None:
    """Return the list of tasks in a reply, also from a wrapper, or one task alone; null is an empty list."""
    listed: JsonValue = body.get("data", [])
    if listed is None:
        return []
    for _ in range(NESTING):
        if not isinstance(listed, dict):
            break
        if task_of(listed) is not None:
            return [listed]
        listed = listed.get("data")
    return listed if isinstance(listed, list) else None


def _each(listed: list[JsonValue]) -> Iterator[Found]:
    for entry in listed:
        if (task := task_of(entry)) is not None and (claim := read_claim(task)).provider_task_id is not None:
            yield _found(claim, task)


def _found(claim: Claim, task: JsonObject) -> Found:
    body = json.dumps(task, ensure_ascii=False, separators=(",", ":")).encode()
    return Found(claim=claim, body=body)


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Read ``Retry-After``: seconds, or a date, which is measured against the reply's own ``Date``."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(timedelta(seconds=int(value)), LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(timedelta(0), min(wait, LONGEST_WAIT))


def _code(value: JsonValue) -> int | None:
    """Read a reply's code: 0 for every way to write a success, None where there is no number."""
    if isinstance(value, str):
        return 0 if value.strip().lower() in SUCCESS_WORDS else None
    code = _integer(value)
    return 0 if code == HTTPStatus.OK else code


def _integer(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
