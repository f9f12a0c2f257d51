"""An endpoint declared once: from the same value come its route and its entry in /openapi.json."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tracker.api.http.capacity import Held, Limits
from tracker.api.http.schemas import Nothing
from tracker.errors import HomingError, NotFound
from tracker.model.task import Caller
from tracker.model.untrusted import identifier
from tracker.service.tracker import Tracker

QueryT = TypeVar("QueryT", bound=BaseModel)
BodyT = TypeVar("BodyT", bound=BaseModel)


class Header(NamedTuple):
    """A header that an endpoint looks at, and its greatest length."""

    name: str
    longest: int


class NothingHere(NotFound):
    """A path that we do not have, as opposed to a task that we do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[QueryT, BodyT]):
    """One admitted request, read and validated."""

    request: Request
    request_id: str
    tracker: Tracker
    caller: Caller
    limits: Limits
    held: Held
    query: QueryT
    body: BodyT

    @property
    def ref(self) -> str:
        """The id in the path. Raises NotFound for one that nothing can have."""
        ref = identifier(self.request.path_params.get("ref"))
        if ref is None:
            raise NotFound("no task has such an id")
        return ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How errors are told below some paths: as problem documents, or in a provider's envelope.

    ``status`` gives the HTTP status of an error type, for the documentation; ``refuse`` makes the answer.
    ``nothing_here`` says at an unknown path what there is instead.
    """

    schema: type[BaseModel]
    media_type: str
    status: Callable[[type[HomingError]], int]
    refuse: Callable[[HomingError, str], Response]
    nothing_here: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[QueryT, BodyT]):
    """One operation. ``path`` may hold ``{ref}``, any of a task's ids.

    ``reply`` is the schema of the answer that ``answer`` makes, ``also`` further statuses with that schema, ``bare``
    those without a body, ``streams`` the media type of a stream that it may answer with instead, ``errors`` what it may
    raise beside what every endpoint may. ``documented_body`` is for an endpoint that reads the body itself, ``headers``
    are those that it looks at.
    ``secured`` is False only for health checks, which tell nothing and are asked by machines without a key.
    """

    method: str
    path: str
    name: str
    summary: str
    group: str
    dialect: Dialect
    answer: Callable[[Ask[QueryT, BodyT]], Awaitable[Response]]
    query: type[QueryT]
    body: type[BodyT]
    reply: type[BaseModel]
    status: HTTPStatus = HTTPStatus.OK
    also: tuple[HTTPStatus, ...] = ()
    bare: tuple[HTTPStatus, ...] = ()
    streams: str | None = None
    errors: tuple[type[HomingError], ...] = ()
    documented_body: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    secured: bool = True

    @property
    def takes_body(self) -> bool:
        """Return whether a JSON body is read for it before it is asked."""
        return self.body is not Nothing


# Different endpoints side by side: each is sound by itself, together they share no parameter.
AnyEndpoint = Endpoint[Any, Any]


def shown(model: BaseModel, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a model as JSON."""
    body = model.model_dump_json().encode()
    return Response(body, status_code=status, media_type="application/json", headers=headers)
