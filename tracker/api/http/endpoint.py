"""The declaration of an endpoint. Its route and its entry in /openapi.json both come from this one value."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from http import HTTPStatus
from inspect import get_annotations
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tracker.api.http.capacity import Limits, RequestResources
from tracker.api.http.problems import PROBLEMS, ErrorDialect
from tracker.errors import CredentialRefused, HomingError, NotFound, Overloaded, ProviderUnavailable, TooMany
from tracker.model.event import JSON_TYPE
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import JsonObject, identifier
from tracker.service.tracker import Tracker

QueryT = TypeVar("QueryT", bound=BaseModel)
BodyT = TypeVar("BodyT", bound=BaseModel)

# The additional errors of an endpoint that calls the provider.
PROVIDER_ERRORS: Final[tuple[type[HomingError], ...]] = (ProviderUnavailable, CredentialRefused, Overloaded, TooMany)


class Header(NamedTuple):
    """A request header that an endpoint reads, and its maximum length."""

    name: str
    max_length: int


class NothingHere(NotFound):
    """A path that does not exist, as opposed to a task that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodySchemas:
    """The JSON schemas of a request body: of the body ``name``, and of the parts that it refers to."""

    name: str
    schemas: Mapping[str, JsonObject]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest(Generic[QueryT, BodyT]):
    """One admitted request, read and validated. ``http`` is the request as it arrived."""

    http: Request
    request_id: str
    tracker: Tracker
    client: ClientIdentity
    limits: Limits
    resources: RequestResources
    query: QueryT
    body: BodyT

    @property
    def ref(self) -> str:
        """The ID in the path. Raises: NotFound, if no task can have it."""
        ref = identifier(self.http.path_params.get("ref"))
        if ref is None:
            raise NotFound("no task has this ID")
        return ref


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """One operation. ``path`` may contain ``{ref}``, which is any ID of a task.

    ``answer`` is the function that answers. The operation gets the name of the function and the first line of its
    docstring, unless ``name`` and ``summary`` are set. The function's first parameter is annotated as
    ``ApiRequest[Query, Body]``. These models validate a request before the function is called.

    - ``reply``: the schema of the answer. ``also``: more statuses with that schema. ``bare``: statuses without a body.
    - ``streams``: the media type, if the answer may be a stream instead.
    - ``errors``: errors that only this endpoint raises. ``headers``: request headers that it reads.
    - ``takes_media``: the body may be as large as those of the gateway, and ``answer`` releases its bytes.
    - ``alternatives``: for a field of the body, the names of schemas that other endpoints document. Its value has one.
    - ``documented_body``: the schemas of a body that ``answer`` reads itself.
    - ``all_clients``: a key that sees all clients is required. ``secured``: a key is required.
    """

    method: str
    path: str
    answer: Callable[[ApiRequest[Any, Any]], Awaitable[Response]]
    reply: type[BaseModel]
    _: KW_ONLY
    group: str
    name: str = ""
    summary: str = ""
    dialect: ErrorDialect = PROBLEMS
    status: HTTPStatus = HTTPStatus.OK
    also: tuple[HTTPStatus, ...] = ()
    bare: tuple[HTTPStatus, ...] = ()
    streams: str | None = None
    errors: tuple[type[HomingError], ...] = ()
    documented_body: BodySchemas | None = None
    takes_media: bool = False
    alternatives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: tuple[Header, ...] = ()
    all_clients: bool = False
    secured: bool = True
    query: type[BaseModel] = field(init=False)
    body: type[BaseModel] = field(init=False)

    def __post_init__(self) -> None:
        function: Any = self.answer.func if isinstance(self.answer, partial) else self.answer
        query, body = get_args(next(iter(get_annotations(function).values())))
        summary = (function.__doc__ or "").partition("\n")[0].removesuffix(".")
        derived = {"query": query, "body": body, "name": function.__name__, "summary": summary}
        for name, value in derived.items():
            object.__setattr__(self, name, getattr(self, name, None) or value)


def json_response(
    model: BaseModel, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with a model as JSON."""
    return Response(model.model_dump_json().encode(), status_code=status, media_type=JSON_TYPE, headers=headers)
