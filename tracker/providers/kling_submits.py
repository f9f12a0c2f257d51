"""Reads the answer to a create request. docs/reference/create-answers.md describes the same rules.

"Nothing was made" frees the client to try again, and to pay again if something was made after all. It is read from
Kling's own refusal, and from the few answers of a gateway in between that can only come before a task is made: no key,
no such path, too many requests, or a refusal in the error object that gateways share. A page of some proxy, a time-out,
a 5xx, a code that contradicts its HTTP status, or a text about problems behind the gateway prove nothing.
"""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec

from tracker.model.task import Status
from tracker.model.untrusted import JsonValue, identifier, text
from tracker.providers.base import (
    Accepted,
    BadCredential,
    Busy,
    Duplicate,
    NoSuchCall,
    Rejected,
    Reply,
    SubmitOutcome,
    Unknown,
)
from tracker.providers.kling_replies import (
    Envelope,
    common_outcome,
    open_envelope,
)
from tracker.providers.kling_reports import MESSAGE_LENGTH, read_report, task_of
from tracker.providers.plain_replies import retry_after, unreadable_reply

# The documented codes of refusals. 5000 and 5002 are missing on purpose, because after them a task may exist.
REFUSALS: Final = frozenset({1100, 1101, 1102, 1103, 1200, 1201, 1202, 1203, 1300, 1301})
# The HTTP statuses that the table gives to refusals, and the family of codes: an undocumented code of that family in
# Kling's own envelope is still a refusal. 408, 425 or 499 never are: they mean a request that was not finished.
REFUSING: Final = frozenset({400, 401, 403, 404, 429})
REFUSING_CODES: Final = range(1100, 2000)
# Codes of Kling. An answer with one of them does not come from a gateway itself.
KLING_CODES: Final = range(1000, 6000)
TAKEN: Final = re.compile(r"external[ _-]?(task[ _-]?)?id\b.*\b(already|exists?|duplicated?|in use|taken)\b", re.DOTALL)

# A gateway's own refusals: the HTTP status, and the code of Kling with the same meaning for the client.
GATEWAY_REFUSALS: Final = MappingProxyType(
    {400: 1201, 402: 1102, 403: 1103, 404: 1203, 413: 1200, 415: 1200, 422: 1201, 451: 1301}
)
QUOTA_CODE: Final = 1102
TOO_MANY_CODE: Final = 1302
ABSENT: Final = frozenset({404, 405})
# 303 is missing, because it may point to the result of the request. 300, 304 and similar statuses refuse nothing.
REDIRECTS: Final = frozenset({301, 302, 307, 308})
# Not enough money at the gateway. A gateway checks that before it forwards a request. Its code may end in "failed".
QUOTA: Final = re.compile(r"quota|balance|insufficient|billing|额度|余额", re.IGNORECASE)
# Problems behind or within the gateway, in a code, a type or a message. The create may have been forwarded before.
TROUBLE_NAMES: Final = re.compile(
    r"upstream|time_?out|unavailable|overload|internal|server_error|gateway|connection|bad_response|failed$",
    re.IGNORECASE,
)
TROUBLE_TEXT: Final = re.compile(
    r"upstream|time[d-]? ?out|unavailable|overload|internal|server error|gateway|connection|try again|retry"
    r"|上游|超时|稍后|重试",
    re.IGNORECASE,
)
# A code that is a name: "quota_not_enough", but not "1201".
CODE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayError:
    """An error as gateways write it: OpenAI's error object, or new-api's fields."""

    message: str
    code: str = ""
    type: str = ""

    @property
    def is_about_money(self) -> bool:
        quota = QUOTA.search(self.message) is not None and TROUBLE_TEXT.search(self.message) is None
        return quota or QUOTA.search(self.code) is not None

    @property
    def shows_trouble(self) -> bool:
        named = any(TROUBLE_NAMES.search(part) for part in (self.code, self.type))
        return named or TROUBLE_TEXT.search(self.message) is not None


def read_submit(reply: Reply, *, external_id: str) -> SubmitOutcome:
    """Return the outcome of a submission with ``external_id``."""
    envelope = open_envelope(reply)
    if envelope.fine:
        return _made(reply, envelope, external_id)
    common = common_outcome(reply, envelope)
    if isinstance(common, Busy | BadCredential):
        return common
    error = _gateway_error(envelope)
    if _says_taken(error.message if error is not None else envelope.text, external_id):
        return Duplicate(why=f"{envelope.outline}: a task exists under our external id")
    if common is not None:
        return _unknown(reply, envelope, unavailable=common.unavailable)
    if _refuses(envelope):
        return Rejected(http_status=envelope.status, code=envelope.code or 0, message=envelope.message)
    return _refused_on_the_way(reply, envelope, error) or _unknown(reply, envelope)


def _made(reply: Reply, envelope: Envelope, external_id: str) -> SubmitOutcome:
    """Read a success. Its ``data`` is the task. One gateway writes the task next to the code instead."""
    task = task_of(envelope.body)
    report = read_report(task) if task is not None else None
    if report is None or report.provider_task_id is None:
        return unreadable_reply(reply, f"{envelope.outline}, but no task id")
    if report.external_id not in {None, external_id}:
        return unreadable_reply(reply, f"{envelope.outline}, but with another external id")
    # A created task is at least submitted, even if its status is unknown.
    report = msgspec.structs.replace(report, status=report.status or Status.SUBMITTED)
    return Accepted(report=report)


def _refused_on_the_way(reply: Reply, envelope: Envelope, error: GatewayError | None) -> SubmitOutcome | None:
    """Read a refusal that is not Kling's, but that of a gateway or of another server at the URL."""
    status = envelope.status
    if envelope.code in KLING_CODES:
        return None
    message = error.message if error is not None else ""
    if status == HTTPStatus.UNAUTHORIZED:
        return BadCredential(code=0, message=message or envelope.outline)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = retry_after(reply.headers)
        return Busy(http_status=status, code=TOO_MANY_CODE, message=message or "too many requests", retry_after=wait)
    if status in REDIRECTS or (status in ABSENT and not _is_about_a_model(error)):
        return NoSuchCall(why=envelope.outline, text=message or unreadable_reply(reply, "").excerpt)
    return None if error is None else _refused_by_gateway(status, error)


def _refused_by_gateway(status: int, error: GatewayError) -> Rejected | None:
    code = GATEWAY_REFUSALS.get(status)
    if code is None or not error.message:
        return None
    if error.is_about_money:
        return Rejected(http_status=status, code=QUOTA_CODE, message=error.message)
    return None if error.shows_trouble else Rejected(http_status=status, code=code, message=error.message)


def _gateway_error(envelope: Envelope) -> GatewayError | None:
    """Return the error of ``{"error": {"message", "type", "code"}}`` or ``{"code": "a_word", "message"}``, or None."""
    error: JsonValue = envelope.body.get("error")
    if isinstance(error, dict):
        return GatewayError(
            message=text(error.get("message"), MESSAGE_LENGTH),
            code=_word(error.get("code")),
            type=_word(error.get("type")),
        )
    code = _word(envelope.body.get("code"))
    if envelope.code is None and CODE_NAME.fullmatch(code):
        return GatewayError(message=text(envelope.body.get("message"), MESSAGE_LENGTH), code=code)
    return None


def _word(value: JsonValue) -> str:
    return identifier(value) or "" if isinstance(value, str) else ""


def _is_about_a_model(error: GatewayError | None) -> bool:
    """Return whether an error is about the requested model and not the path. A 404 can mean both."""
    return error is not None and any("model" in part.lower() for part in (error.code, error.message))


def _refuses(envelope: Envelope) -> bool:
    if envelope.code in REFUSALS:
        return envelope.status in REFUSING or envelope.successful
    return envelope.code in REFUSING_CODES and envelope.status in REFUSING and envelope.has_request_id


def _says_taken(message: str, external_id: str) -> bool:
    """Return whether an error says that the external ID is taken.

    Live: 400/1201 "External_task_id <ours> already exists". A gateway may name the id that it renamed ours to, and may
    wrap the text in its own error. Homing sends only one external ID, so that one is taken. A refusal that mentions
    this ID never proves that nothing was made.
    """
    folded = message.casefold()
    return external_id.casefold() in folded or TAKEN.search(folded) is not None


def _unknown(reply: Reply, envelope: Envelope, *, unavailable: bool = False) -> Unknown:
    """Return an unknown outcome, with the message of the answer or else its beginning."""
    error = _gateway_error(envelope)
    shown = error.message if error is not None else envelope.text
    if shown:
        return Unknown(why=envelope.outline, unavailable=unavailable, excerpt=shown)
    # An unreadable answer with a server error is an outage, and no sign of another API.
    return replace(unreadable_reply(reply, envelope.outline), unreadable=not envelope.broken)
