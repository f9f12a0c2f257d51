"""Errors below the gateway's paths: the provider's envelope, with the codes that its clients already know.

Codes: https://kling.ai/document-api, "Error codes". A client re-sends a create by itself on 5001 and on 502 to 504, so
those are answered only where nothing was created.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.responses import JSONResponse, Response

from tracker.api.gateway_schemas import RefusalShown
from tracker.api.http.access import KeyExpired, KeyMissing, KeyTooEarly, WrongHost
from tracker.api.http.body import Truncated
from tracker.api.http.endpoint import Dialect, NothingHere
from tracker.api.http.problems import detail_of, headers_of
from tracker.errors import (
    Conflict,
    Forbidden,
    HomingError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    OurError,
    Refused,
    SettingsError,
    TooLarge,
    TooMany,
    TooSlow,
    Unreadable,
    WrongMediaType,
)
from tracker.providers.kling_gateway import error_envelope

SUPPORTED: Final = (
    "this gateway has no such path. It takes POST /v1/images/omni-image, GET /v1/{kind} and GET /v1/{kind}/{id} of "
    "every kind that Homing tracks, and GET /tasks?task_ids=, each also below /kling; /openapi.json lists them"
)


class Told(NamedTuple):
    """The HTTP status and the provider's code of an error."""

    status: int
    code: int


# The nearest type along an error's own line of ancestors decides.
CODES: Final[dict[type[HomingError], Told]] = {
    HomingError: Told(HTTPStatus.INTERNAL_SERVER_ERROR, 5000),
    OurError: Told(HTTPStatus.SERVICE_UNAVAILABLE, 5001),
    SettingsError: Told(HTTPStatus.INTERNAL_SERVER_ERROR, 5000),
    KeyMissing: Told(HTTPStatus.UNAUTHORIZED, 1001),
    NotAuthenticated: Told(HTTPStatus.UNAUTHORIZED, 1002),
    KeyTooEarly: Told(HTTPStatus.UNAUTHORIZED, 1003),
    KeyExpired: Told(HTTPStatus.UNAUTHORIZED, 1004),
    Forbidden: Told(HTTPStatus.FORBIDDEN, 1103),
    WrongHost: Told(HTTPStatus.MISDIRECTED_REQUEST, 1103),
    # A body as a whole is 1200, a field or an id of it 1201; so are a task that is not there and an id that is taken.
    Unreadable: Told(HTTPStatus.BAD_REQUEST, 1200),
    Truncated: Told(HTTPStatus.BAD_REQUEST, 1200),
    TooSlow: Told(HTTPStatus.REQUEST_TIMEOUT, 1200),
    TooLarge: Told(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 1200),
    WrongMediaType: Told(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 1200),
    InvalidRequest: Told(HTTPStatus.BAD_REQUEST, 1201),
    NotFound: Told(HTTPStatus.BAD_REQUEST, 1201),
    Conflict: Told(HTTPStatus.BAD_REQUEST, 1201),
    NotAllowed: Told(HTTPStatus.NOT_FOUND, 1202),
    NothingHere: Told(HTTPStatus.NOT_FOUND, 1203),
    TooMany: Told(HTTPStatus.TOO_MANY_REQUESTS, 1302),
}


def told(error: type[HomingError]) -> Told:
    """Return status and code of an error type."""
    return next((CODES[ancestor] for ancestor in error.__mro__ if ancestor in CODES), CODES[HomingError])


def refuse(error: HomingError, request_id: str) -> Response:
    """Answer in the provider's envelope."""
    status, code = told(type(error))
    if isinstance(error, Refused):
        status, code = error.http_status, error.code
    body = error_envelope(code, detail_of(error), request_id=request_id)
    return JSONResponse(body, status_code=status, headers=headers_of(error))


ENVELOPE: Final = Dialect(
    schema=RefusalShown,
    media_type="application/json",
    status=lambda error: told(error).status,
    refuse=refuse,
    nothing_here=SUPPORTED,
)
