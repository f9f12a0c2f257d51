"""A path and the endpoints at it, as one route: admission, reading, the answer, the error and the log line.

Everything that a request passes is here and not in an application's middleware, so that the routes keep their guard
wherever they are mounted.
"""

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams, URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from tracker.api.http.access import Asked
from tracker.api.http.access_guard import AccessGuard
from tracker.api.http.body import read_body, require_json
from tracker.api.http.capacity import Capacity, Held, Limits
from tracker.api.http.endpoint import AnyEndpoint, Ask, Dialect, NothingHere
from tracker.api.http.problems import INTERNAL
from tracker.api.http.schemas import Nothing
from tracker.errors import HomingError, InvalidRequest, NotAllowed
from tracker.model.task import Caller
from tracker.model.untrusted import READ_IN_THREAD, read_object
from tracker.service.tracker import Tracker

logger: Final = logging.getLogger("homing.api")
ModelT = TypeVar("ModelT", bound=BaseModel)
# What decides who asks: of two, another program on the way may have read the other one.
ONCE: Final = ("authorization", "host")
FAULTS_TOLD: Final = 3
SLASHES: Final = re.compile("/{2,}")
# Who asks for what takes no key.
NOBODY: Final = Caller(name="")
UNKNOWN: Final = "extra_forbidden"
# What pydantic puts before a sentence that is ours.
OURS: Final = "Value error, "


class Place(Route):
    """The route of one path, for every method.

    It is matched against the path as it was sent: an id may hold an encoded slash, and that is no separator.
    """

    def __init__(self, path: str, *, endpoints: Sequence[AnyEndpoint], desk: "Desk") -> None:
        super().__init__(path, desk, include_in_schema=False)
        self.endpoints = tuple(endpoints)
        self.dialect = desk.dialect

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        raw = scope.get("raw_path")
        if scope["type"] != "http" or not isinstance(raw, bytes):
            return super().matches(scope)
        match, child = super().matches({**scope, "path": raw.decode("latin-1")})
        if match is not Match.NONE:
            child["path_params"] = {name: unquote(value) for name, value in child["path_params"].items()}
        return match, child


class PlaceIndex(BaseRoute):
    """The routes of many paths, found by a look-up instead of by trying one after another.

    Each path is fixed, or fixed but for ``{ref}`` as its last segment. Repeated slashes count as one: clients of a
    provider join a base URL and a path without looking at either.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)
        self._fixed: dict[str, Place] = {}
        self._by_parent: dict[str, Place] = {}
        for place in self.places:
            parent, _, last = place.path.rpartition("/")
            if last == "{ref}":
                self._by_parent[parent] = place
            else:
                self._fixed[place.path] = place

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        root = scope.get("root_path", "")
        raw = scope.get("raw_path")
        sent = raw.decode("latin-1") if isinstance(raw, bytes) else quote(scope["path"])
        path = SLASHES.sub("/", sent.removeprefix(root))
        place = self._fixed.get(path) or self._by_parent.get(path.rpartition("/")[0])
        return (
            (Match.NONE, {}) if place is None else place.matches({**scope, "raw_path": (root + path).encode("latin-1")})
        )

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:  # noqa: ANN401 - Starlette's signature
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["endpoint"](scope, receive, send)


class Desk:
    """The ASGI application behind one path: takes a request to its endpoint and always sends an answer."""

    def __init__(
        self,
        template: str,
        endpoints: Mapping[str, AnyEndpoint],
        *,
        dialect: Dialect,
        tracker: Tracker,
        guard: AccessGuard,
        limits: Limits,
        capacity: Capacity,
    ) -> None:
        self.template = template
        self.endpoints = endpoints
        self.dialect = dialect
        self.tracker = tracker
        self.guard = guard
        self.limits = limits
        self.capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = Held(self.capacity)
        try:
            await self._respond(Request(scope, receive), send, held)
        finally:
            held.release()

    async def _respond(self, request: Request, send: Send, held: Held) -> None:
        request_id = secrets.token_hex(12)
        began = time.monotonic()
        try:
            response = await self._answer(request, request_id, held)
        except HomingError as error:
            response = self.dialect.refuse(error, request_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log a place
            _log_crash(request_id, error)
            response = self.dialect.refuse(HomingError(INTERNAL), request_id)
        response.headers["x-request-id"] = request_id
        response.headers.setdefault("cache-control", "no-store")
        if response.status_code == NotAllowed.status:
            response.headers["allow"] = ", ".join(sorted(self.endpoints))
        took = (time.monotonic() - began) * 1000
        # The template and never the path: a path holds ids, and a stranger chooses it.
        logger.info("%s %s %d %.0f ms %s", _method(request), self.template, response.status_code, took, request_id)
        await response(request.scope, request.receive, send)

    async def _answer(self, request: Request, request_id: str, held: Held) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = self.endpoints.get(method)
        if endpoint is None:
            raise self._nothing_here()
        caller = NOBODY
        if endpoint.secured:
            caller = self._admit(request)
            held.admit(caller.name)
        query = _validated(endpoint.query, _parameters(endpoint.query, request.query_params))
        body = await self._read(endpoint.body, request, held) if endpoint.takes_body else Nothing()
        return await endpoint.answer(
            Ask(
                request=request,
                request_id=request_id,
                tracker=self.tracker,
                caller=caller,
                limits=self.limits,
                held=held,
                query=query,
                body=body,
            )
        )

    def _admit(self, request: Request) -> Caller:
        # Homing's own server refuses these before; another one, which mounts the routes, may not.
        for name in ONCE:
            if len(request.headers.getlist(name)) > 1:
                raise InvalidRequest(f"the header {name} is given more than once")
        peer = request.client.host if request.client is not None else None
        return self.guard.admit(Asked(headers=request.headers, peer=peer), self.tracker.clock())

    def _nothing_here(self) -> HomingError:
        if not self.endpoints:
            return NothingHere(self.dialect.nothing_here)
        return NotAllowed(f"this path takes {', '.join(sorted(self.endpoints))}")

    async def _read(self, model: type[ModelT], request: Request, held: Held) -> ModelT:
        require_json(request)
        raw = await read_body(request, held, limit=self.limits.body, within=self.limits.body_time)
        large = len(raw) > READ_IN_THREAD
        body = await asyncio.to_thread(_read_body, model, raw) if large else _read_body(model, raw)
        held.give_bytes()
        return body


def _parameters(model: type[BaseModel], query: QueryParams) -> dict[str, object]:
    """Return the query as values: a list for a field that is one, an error for any other field that comes twice."""
    values: dict[str, object] = {}
    for name in query:
        told = query.getlist(name)
        field = model.model_fields.get(name)
        if field is not None and isinstance(field.default, list):
            values[name] = told
        elif field is not None and len(told) > 1:
            raise InvalidRequest(f"{name:.80} is given more than once")
        else:
            values[name] = told[0]
    return values


def _validated(model: type[ModelT], values: Mapping[str, object]) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error, model, "parameter")) from None


def _read_body(model: type[ModelT], raw: bytes) -> ModelT:
    """Check the bounds first (depth, NUL, 64 bits), then pydantic on the same bytes in its strict JSON mode."""
    read_object(raw)
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error, model, "field")) from None


def _sentence(error: ValidationError, model: type[BaseModel], what: str) -> str:
    """Name the fields and what is wrong with each, and what there is where one is unknown; never what they held."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    told = [
        (f"{'.'.join(str(part) for part in fault['loc'])[:80]}: " if fault["loc"] else "")
        + (f"unknown {what}" if fault["type"] == UNKNOWN else fault["msg"].removeprefix(OURS)[:200])
        for fault in faults[:FAULTS_TOLD]
    ]
    more = len(faults) - FAULTS_TOLD
    if more > 0:
        told.append(f"and {more} more")
    if any(fault["type"] == UNKNOWN for fault in faults):
        told.append(f"known here: {', '.join(sorted(model.model_fields)) or 'none'}")
    return "; ".join(told)


def _method(request: Request) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return request.method if request.method in known else "?"


def _log_crash(request_id: str, error: Exception) -> None:
    """Log where it happened, but not the message: that may quote a key or a body."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s failed with %s at\n%s", request_id, type(error).__name__, where)
