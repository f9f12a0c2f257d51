"""Reads a reply of Kling (HTTP status and code) as an outcome. Reading never raises.

Documentation: https://kling.ai/document-api/api/get-started/error-codes. Every reply is ``{code, message, request_id,
data}``; a code other than 0 is an error even with HTTP 200.

``kling_submits`` reads the answers to create requests. This module reads queries and the parts that all replies share.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from tracker.errors import Unreadable
from tracker.model.task import Report
from tracker.model.untrusted import JsonObject, JsonValue, identifier, read_object, text
from tracker.providers.base import (
    BadCredential,
    Busy,
    Found,
    ListOutcome,
    ManyOutcome,
    Missing,
    Page,
    PollOutcome,
    Query,
    Reply,
    Unknown,
    Unsupported,
)
from tracker.providers.kling_kinds import KINDS
from tracker.providers.kling_reports import MESSAGE_LENGTH, NESTING, code_of, read_report, task_of, tasks_in
from tracker.providers.plain_replies import is_web_page, retry_after, unreadable_reply

# The documented codes, by their meaning for Homing.
OUR_CREDENTIAL: Final = frozenset(
    {1000, 1001, 1002, 1003, 1004, 1304}
)  # 1304: the address of this server is not allowed
TRY_LATER: Final = frozenset({1302, 1303})
MAINTENANCE: Final = 5001
# 5000 and 5002 have no constant on purpose. After them a task may exist, as after any undocumented code.

NO_SUCH_KEY_VALUE: Final = 1201
INVALID_AUTHORIZATION: Final = 1002
NO_SUCH_CALL: Final = frozenset({1202, 1203})
# Observed live. The table says 404/1203, so that answer may mean a missing path or a missing task.
NOT_FOUND: Final = "Task not found by id/external id: {id}"

CREDENTIAL_CODES: Final = range(1000, 1100)
TASKS_PER_REPLY: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The envelope of a reply. ``code`` is None if there is none; ``message`` then says what is wrong.

    ``has_request_id`` is true for a reply that Kling itself wrote.
    """

    status: int
    code: int | None
    message: str
    body: JsonObject
    has_request_id: bool = False

    @property
    def fine(self) -> bool:
        return self.code == 0 and self.successful

    @property
    def successful(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def broken(self) -> bool:
        """Whether it is a server error. Then the request may have succeeded, also if the code says something else."""
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def text(self) -> str:
        """The message of the sender. It is empty without an envelope, because ``message`` is then Homing's."""
        return "" if self.code is None else self.message

    @property
    def outline(self) -> str:
        """A description of the reply without any text of the sender, so that every client may read it."""
        if self.code is None:
            return f"HTTP {self.status}: {self.message}"
        return f"HTTP {self.status}, code {self.code}"


def read_query(reply: Reply, wanted: Query) -> PollOutcome:
    """Return the outcome of a single query."""
    return _read_single(reply, wanted) if KINDS[wanted.kind].is_legacy else _read_listed(reply, wanted)


def _read_single(reply: Reply, wanted: Query) -> PollOutcome:
    task_id, external = wanted.task_id, wanted.external
    envelope = open_envelope(reply)
    denial = (envelope.status, envelope.code, envelope.message.strip())
    if denial == (HTTPStatus.BAD_REQUEST, NO_SUCH_KEY_VALUE, NOT_FOUND.format(id=task_id)):
        return Missing(message=envelope.message)
    tasks = tasks_in(envelope.body) if envelope.successful and envelope.code in {0, None} else []
    reports = [(read_report(task), task) for task in reversed(tasks)]
    for report, task in reports:
        if task_id == report.external_id or (task_id == report.provider_task_id and not external):
            return _found(report, task)
    if not envelope.fine:
        why = envelope.outline + ("" if envelope.code is None else ": not the documented not-found answer")
        return common_outcome(reply, envelope, query=True) or unreadable_reply(reply, why)
    if not reports:
        return unreadable_reply(reply, f"{envelope.outline}, but no task")
    report, task = reports[0]
    # Kling does not return the external ID of a task until the task ends. An external ID in the path may equal the
    # provider ID of another client's task. Then the reply is about that task.
    by_provider_id = any(one.provider_task_id == task_id for one, _ in reports)
    if external and report.external_id is None and report.provider_task_id is not None and not by_provider_id:
        return _found(report, task)
    return Unknown(why=f"the request is about {task_id!r}, the reply about another task", mismatch=True)


def _read_listed(reply: Reply, wanted: Query) -> PollOutcome:
    """Read the answer of a newer dialect: a list. It is empty if there is no task with the ID (live)."""
    outcome = read_many(reply)
    if not isinstance(outcome, Sequence):
        return outcome
    for found in outcome:
        if wanted.task_id == (found.report.external_id if wanted.external else found.report.provider_task_id):
            return found
    envelope = open_envelope(reply)
    if envelope.body.get("data") == []:
        return Missing(message="the provider's list has no task with this ID")
    if not outcome:
        return unreadable_reply(reply, f"{envelope.outline}, but no task")
    # As on the older paths, a task may hide its external ID until it ends.
    only = outcome[0].report
    if wanted.external and len(outcome) == 1 and only.external_id is None and only.provider_task_id != wanted.task_id:
        return outcome[0]
    return Unknown(why=f"the request is about {wanted.task_id!r}, the reply about another task", mismatch=True)


def read_list(reply: Reply, kind: str, cursor: str | None) -> ListOutcome:
    """Return one page of a list. The last page by number is empty, the last page by cursor names no next one."""
    outcome = read_many(reply)
    if not isinstance(outcome, Sequence):
        return outcome
    body = open_envelope(reply).body
    if KINDS[kind].is_legacy:
        return Page(found=outcome, next=str(int(cursor or "1") + 1) if _list_in(body) else None)
    data = body.get("data")
    following = data.get("next_cursor") if isinstance(data, dict) and data.get("has_more") is not False else None
    # A page that leads to itself would never end.
    return Page(found=outcome, next=following if isinstance(following, str) and following != (cursor or "") else None)


def read_many(reply: Reply, *, batch: bool = False) -> ManyOutcome:
    """Return the tasks of a list page, or of ``/tasks`` (``batch``). An entry that cannot be read is left out."""
    envelope = open_envelope(reply)
    if batch and envelope.status == HTTPStatus.UNAUTHORIZED and envelope.code in {INVALID_AUTHORIZATION, None}:
        # An AK/SK token is not taken *here* (live); it need not be bad.
        return Unsupported(why=envelope.outline)
    if envelope.fine:
        listed = _list_in(envelope.body)
        if listed is None:
            return unreadable_reply(reply, f"{envelope.outline}, but no list of tasks")
        return [
            _found(report, task)
            for entry in listed[:TASKS_PER_REPLY]
            if (task := task_of(entry)) is not None and (report := read_report(task)).provider_task_id is not None
        ]
    if (absent := _absent_call(reply, envelope)) is not None:
        return absent
    return common_outcome(reply, envelope, query=True) or unreadable_reply(reply, envelope.outline)


def open_envelope(reply: Reply) -> Envelope:
    """Read the envelope of a reply."""
    try:
        body = read_object(reply.body)
    except Unreadable as error:
        message = "a web page, not JSON" if is_web_page(reply) else error.detail
        if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST:
            message = "a redirect"
        return Envelope(status=reply.status, code=None, message=message, body={})
    code = code_of(body)
    if code is None:
        return Envelope(status=reply.status, code=None, message="the JSON is not Kling's envelope", body=body)
    message = text(body.get("message"), MESSAGE_LENGTH)
    has_request_id = identifier(body.get("request_id")) is not None
    return Envelope(status=reply.status, code=code, message=message, body=body, has_request_id=has_request_id)


def common_outcome(reply: Reply, envelope: Envelope, *, query: bool = False) -> Busy | BadCredential | Unknown | None:
    """Return an outcome that is the same for every call, or None.

    A ``query`` creates nothing, so its HTTP status is enough without a code.
    """
    code, message, why = envelope.code, envelope.message, envelope.outline
    if code == MAINTENANCE:
        return Unknown(why=why, unavailable=True)
    if envelope.broken:
        return Unknown(why=why)
    if code in TRY_LATER or (query and code is None and envelope.status == HTTPStatus.TOO_MANY_REQUESTS):
        wait = retry_after(reply.headers)
        return Busy(http_status=envelope.status, code=code or 0, message=message, retry_after=wait)
    if code in OUR_CREDENTIAL or (code in CREDENTIAL_CODES and envelope.has_request_id):
        return BadCredential(code=code or 0, message=message)
    if query and envelope.status == HTTPStatus.UNAUTHORIZED:
        return BadCredential(code=code or 0, message=message)
    return None


def _absent_call(reply: Reply, envelope: Envelope) -> Unsupported | None:
    """Return an outcome if the server does not have this call: 404, 405, a documented code, or a web page."""
    page = envelope.successful and envelope.code is None and is_web_page(reply)
    by_status = envelope.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    if page or by_status or (envelope.code in NO_SUCH_CALL and not envelope.broken):
        return Unsupported(why=envelope.outline)
    return None


def _list_in(body: JsonObject) -> list[JsonValue] | None:
    """Return the list of tasks in a reply, also from a wrapper. A single task is a list of one; null is empty."""
    listed: JsonValue = body.get("data", [])
    if listed is None:
        return []
    for _ in range(NESTING):
        if not isinstance(listed, dict):
            break
        if task_of(listed) is not None:
            return [listed]
        # A page by cursor has its tasks in "result".
        listed = listed.get("result", listed.get("data"))
    return listed if isinstance(listed, list) else None


def _found(report: Report, task: JsonObject) -> Found:
    body = json.dumps(task, ensure_ascii=False, separators=(",", ":")).encode()
    return Found(report=report, body=body)
