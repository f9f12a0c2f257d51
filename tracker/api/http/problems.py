"""Errors as problem documents (RFC 9457). ``tracker.errors`` defines the status of each error."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response

from tracker.api.http.base_schemas import ProblemShown
from tracker.errors import (
    CredentialMissing,
    CredentialRefused,
    HomingError,
    NotAuthenticated,
    Refused,
    ServiceError,
    TooMany,
    TooSlow,
)

PROBLEM_TYPE: Final = "application/problem+json"
CREDENTIAL_REFUSED: Final = (
    "credential refused: the provider does not accept this server's own key. Nothing was created"
)
DEFAULT_RETRY_AFTER: Final = timedelta(seconds=5)
INTERNAL_ERROR: Final = "an internal error occurred. The log has the details under this request_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDialect:
    """The form of error responses below some paths: problem documents, or a provider's envelope.

    ``status`` returns the HTTP status of an error type, for the documentation. ``refuse`` creates the response.
    ``nothing_here`` is the error text at an unknown path.
    """

    schema: type[BaseModel]
    media_type: str
    status: Callable[[type[HomingError]], int]
    refuse: Callable[[HomingError, str], Response]
    nothing_here: str


def refuse_with_problem(error: HomingError, request_id: str) -> Response:
    """Return the response with the problem document of an error."""
    refused = error if isinstance(error, Refused) else None
    # The provider may refuse with any status, even with 200.
    busy = refused is not None and refused.retry_after is not None
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()
    problem = ProblemShown(
        type=f"urn:homing:problem:{kind}",
        title=error.title,
        status=TooMany.status if busy else error.status,
        detail=detail_of(error),
        request_id=request_id,
        provider_code=None if refused is None else str(refused.code),
        task_id=None if refused is None else refused.task_id,
    )
    body = problem.model_dump_json(exclude_none=True).encode()
    return Response(body, status_code=problem.status, media_type=PROBLEM_TYPE, headers=headers_of(error))


def detail_of(error: HomingError) -> str:
    """Return the sentence of an error. The provider's text about Homing's own credential is never shown to clients."""
    theirs = isinstance(error, CredentialRefused) and not isinstance(error, CredentialMissing)
    return CREDENTIAL_REFUSED if theirs else error.detail


def headers_of(error: HomingError) -> dict[str, str]:
    """Return the headers of an error response, which are the same in every dialect."""
    headers: dict[str, str] = {}
    wait = error.retry_after or (DEFAULT_RETRY_AFTER if error.status == ServiceError.status else None)
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait.total_seconds())))
    if isinstance(error, NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooSlow):
        # The rest of the body may still arrive.
        headers["connection"] = "close"
    return headers


PROBLEMS: Final = ErrorDialect(
    schema=ProblemShown,
    media_type=PROBLEM_TYPE,
    status=lambda error: error.status,
    refuse=refuse_with_problem,
    nothing_here="this path does not exist. /openapi.json lists all paths",
)
