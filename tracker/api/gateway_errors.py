"""Errors below the gateway's paths: the provider's envelope, with the codes that its clients already know.

Codes: https://kling.ai/document-api, "Error codes". Clients repeat a create request on 5001 and on 502 to 504,
so the gateway sends these only if nothing was created.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.responses import JSONResponse, Response

from tracker.api.gateway_schemas import RefusalShown
from tracker.api.http.access import KeyExpired, KeyMissing, KeyTooEarly, WrongHost
from tracker.api.http.body import Truncated
from tracker.api.http.endpoint import NothingHere
from tracker.api.http.problems import ErrorDialect, detail_of, headers_of
from tracker.errors import (
    Conflict,
    Forbidden,
    HomingError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Refused,
    ServiceError,
    SettingsError,
    TooLarge,
    TooMany,
    TooSlow,
    Unreadable,
    WrongMediaType,
)
from tracker.providers.kling_gateway import error_envelope

GATEWAY_PATHS: Final = (
    "this gateway has no such path. It takes POST /v1/{kind}, GET /v1/{kind} and GET /v1/{kind}/{id} of every kind of "
    "task, POST /{kind}/{model}, POST /solutions/{kind}, GET and POST /tasks and /solutions, and helper calls, unless "
    "HOMING_GATEWAY_HELPERS switches them off. Each is also below /kling; /openapi.json lists them"
)


class EnvelopeCode(NamedTuple):
    """The HTTP status and the provider's code of an error."""

    status: int
    code: int


ENVELOPE_CODES: Final[dict[type[HomingError], EnvelopeCode]] = {
    HomingError: EnvelopeCode(HTTPStatus.INTERNAL_SERVER_ERROR, 5000),
    ServiceError: EnvelopeCode(HTTPStatus.SERVICE_UNAVAILABLE, 5001),
    SettingsError: EnvelopeCode(HTTPStatus.INTERNAL_SERVER_ERROR, 5000),
    KeyMissing: EnvelopeCode(HTTPStatus.UNAUTHORIZED, 1001),
    NotAuthenticated: EnvelopeCode(HTTPStatus.UNAUTHORIZED, 1002),
    KeyTooEarly: EnvelopeCode(HTTPStatus.UNAUTHORIZED, 1003),
    KeyExpired: EnvelopeCode(HTTPStatus.UNAUTHORIZED, 1004),
    Forbidden: EnvelopeCode(HTTPStatus.FORBIDDEN, 1103),
    WrongHost: EnvelopeCode(HTTPStatus.MISDIRECTED_REQUEST, 1103),
    # A wrong body is 1200. A wrong field or ID in it, an unknown task and a used ID are 1201.
    Unreadable: EnvelopeCode(HTTPStatus.BAD_REQUEST, 1200),
    Truncated: EnvelopeCode(HTTPStatus.BAD_REQUEST, 1200),
    TooSlow: EnvelopeCode(HTTPStatus.REQUEST_TIMEOUT, 1200),
    TooLarge: EnvelopeCode(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 1200),
    WrongMediaType: EnvelopeCode(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 1200),
    InvalidRequest: EnvelopeCode(HTTPStatus.BAD_REQUEST, 1201),
    NotFound: EnvelopeCode(HTTPStatus.BAD_REQUEST, 1201),
    Conflict: EnvelopeCode(HTTPStatus.BAD_REQUEST, 1201),
    NotAllowed: EnvelopeCode(HTTPStatus.NOT_FOUND, 1202),
    NothingHere: EnvelopeCode(HTTPStatus.NOT_FOUND, 1203),
    TooMany: EnvelopeCode(HTTPStatus.TOO_MANY_REQUESTS, 1302),
}


def envelope_code(error: type[HomingError]) -> EnvelopeCode:
    """Return the status and the code of an error type, or of its nearest listed base class."""
    return next(ENVELOPE_CODES[base] for base in error.__mro__ if base in ENVELOPE_CODES)


def refuse_with_envelope(error: HomingError, request_id: str) -> Response:
    """Return the response in the provider's envelope."""
    status, code = envelope_code(type(error))
    if isinstance(error, Refused):
        status, code = error.http_status, error.code
    body = error_envelope(code, detail_of(error), request_id=request_id)
    return JSONResponse(body, status_code=status, headers=headers_of(error))


ENVELOPE: Final = ErrorDialect(
    schema=RefusalShown,
    media_type="application/json",
    status=lambda error: envelope_code(error).status,
    refuse=refuse_with_envelope,
    nothing_here=GATEWAY_PATHS,
)
