"""Errors as problem documents (RFC 9457). The status of each error is the tree in ``tracker.errors``."""

import math
import re
from datetime import timedelta
from typing import Final

from starlette.responses import Response

from tracker.api.http.endpoint import Dialect
from tracker.api.http.schemas import ProblemShown
from tracker.errors import (
    CredentialMissing,
    CredentialRefused,
    HomingError,
    NotAuthenticated,
    OurError,
    Refused,
    TooSlow,
)

MEDIA_TYPE: Final = "application/problem+json"
CREDENTIAL: Final = "credential refused: the provider does not take this server's own key; nothing was created"
RETRY_AFTER: Final = timedelta(seconds=5)
INTERNAL: Final = "something went wrong here; the log names this request_id"


def refuse(error: HomingError, request_id: str) -> Response:
    """Answer with the problem document of an error."""
    shown = ProblemShown(
        type=f"urn:homing:problem:{_kebab(type(error).__name__)}",
        title=error.title,
        status=status_of(error),
        detail=detail_of(error),
        request_id=request_id,
    )
    body = shown.model_dump_json().encode()
    return Response(body, status_code=shown.status, media_type=MEDIA_TYPE, headers=headers_of(error))


def detail_of(error: HomingError) -> str:
    """Return an error's sentence; the provider's own words about the operator's credential are not for clients."""
    theirs = isinstance(error, CredentialRefused) and not isinstance(error, CredentialMissing)
    return CREDENTIAL if theirs else error.detail


def status_of(error: HomingError) -> int:
    """Return the HTTP status that an error is answered with."""
    return error.http_status if isinstance(error, Refused) else error.status


def headers_of(error: HomingError) -> dict[str, str]:
    """Return the headers that belong to an error, whatever the dialect of its body."""
    headers: dict[str, str] = {}
    wait = error.retry_after or (RETRY_AFTER if error.status == OurError.status else None)
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait.total_seconds())))
    if isinstance(error, NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooSlow):
        # The rest of the body may still be dripping.
        headers["connection"] = "close"
    return headers


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


PROBLEMS: Final = Dialect(
    schema=ProblemShown,
    media_type=MEDIA_TYPE,
    status=lambda error: error.status,
    refuse=refuse,
    nothing_here="there is nothing at this path; /openapi.json lists what there is",
)
