"""The route of one path: admit a request, read it, call its endpoint, answer and log.

This is not the middleware of an application, so that the routes stay protected in any app that mounts them.
"""

import asyncio
import logging
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams, URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from tracker.api.http.access import AccessGuard
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.body import read_body, require_json
from tracker.api.http.capacity import Capacity, RequestResources
from tracker.api.http.endpoint import ApiEndpoint, ApiRequest, NothingHere
from tracker.api.http.problems import INTERNAL_ERROR, ErrorDialect
from tracker.errors import Forbidden, HomingError, InvalidRequest, NotAllowed
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import READ_IN_THREAD, read_object
from tracker.service.tracker import Tracker

logger: Final = logging.getLogger("homing.api")
ModelT = TypeVar("ModelT", bound=BaseModel)
# These headers identify the client. If one is repeated, a proxy may read another value than Homing.
SINGLE_HEADERS: Final = ("authorization", "host")
LOGGED_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_FAULTS_SHOWN: Final = 3
# A parameter with a key, such as metadata[order].
KEYED_PARAMETER: Final = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)
REPEATED_SLASHES: Final = re.compile("/{2,}")
# The client of a request that needs no key.
NO_CLIENT: Final = ClientIdentity(name="")
# The type of pydantic's error for an unknown name, and its prefix before an error text of Homing.
UNKNOWN_NAME: Final = "extra_forbidden"
OWN_SENTENCE: Final = "Value error, "


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHandler:
    """The ASGI application at one path. It always sends an answer.

    ``endpoints`` are the endpoints of the path by method. Without any, the path does not exist.
    """

    path: str
    endpoints: Mapping[str, ApiEndpoint]
    dialect: ErrorDialect
    tracker: Tracker
    guard: AccessGuard
    capacity: Capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id, began = self.tracker.random_bytes(12).hex(), self.tracker.monotonic()
        resources = RequestResources(self.capacity)
        try:
            try:
                response = await self._answer(request, request_id, resources)
            except HomingError as error:
                response = self.dialect.refuse(error, request_id)
            except Exception as error:  # noqa: BLE001 - the client gets an answer, and the log gets the traceback
                # The message is not logged, because it may quote a key or a body.
                where = "".join(traceback.format_tb(error.__traceback__))
                logger.error(  # noqa: TRY400 - logger.exception would log the message
                    "request %s failed with %s at\n%s", request_id, type(error).__name__, where
                )
                response = self.dialect.refuse(HomingError(INTERNAL_ERROR), request_id)
            response.headers["x-request-id"] = request_id
            response.headers.setdefault("cache-control", "no-store")
            if response.status_code == NotAllowed.status:
                response.headers["allow"] = ", ".join(sorted(self.endpoints))
            took = (self.tracker.monotonic() - began) * 1000
            # The log gets the template of the path and a known method, because the client chooses both texts.
            method = request.method if request.method in LOGGED_METHODS else "?"
            logger.info("%s %s %d %.0f ms %s", method, self.path, response.status_code, took, request_id)
            await response(scope, request.receive, send)
        finally:
            resources.release()

    async def _answer(self, request: Request, request_id: str, resources: RequestResources) -> Response:
        endpoint = self.endpoints.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            if self.endpoints:
                raise NotAllowed(f"this path does not have the method. Use {', '.join(sorted(self.endpoints))}")
            raise NothingHere(self.dialect.nothing_here)
        client = NO_CLIENT
        if endpoint.secured:
            # Homing's own server refuses these earlier. Another server that mounts the routes may not.
            for name in SINGLE_HEADERS:
                if len(request.headers.getlist(name)) > 1:
                    raise InvalidRequest(f"the header {name} is repeated. Send it once")
            peer = request.client.host if request.client is not None else None
            client = self.guard.admit(request.headers, peer, self.tracker.clock())
            resources.admit(client.name)
        query = _read_query(endpoint.query, request.query_params)
        body = Nothing() if endpoint.body is Nothing else await self._read_body(endpoint, request, resources)
        if endpoint.all_clients and not client.sees_all:
            raise Forbidden("this path needs a key that sees all clients. Set one as name*:key in HOMING_API_KEYS")
        return await endpoint.answer(
            ApiRequest(
                http=request,
                request_id=request_id,
                tracker=self.tracker,
                client=client,
                limits=self.capacity.limits,
                resources=resources,
                query=query,
                body=body,
            )
        )

    async def _read_body(self, endpoint: ApiEndpoint, request: Request, resources: RequestResources) -> BaseModel:
        require_json(request)
        limits, model = self.capacity.limits, endpoint.body
        limit, within = limits.body, limits.body_time
        if endpoint.takes_media:
            limit, within = limits.gateway_body, limits.gateway_body_time
        raw = await read_body(request, resources, limit=limit, within=within)
        large = len(raw) > READ_IN_THREAD
        body = await asyncio.to_thread(_parse_body, model, raw) if large else _parse_body(model, raw)
        if not endpoint.takes_media:
            resources.release_bytes()
        return body


class ApiRoute(Route):
    """The route of one path, for every method.

    It matches the path as it was sent, because an ID may contain an encoded slash, which is not a separator.
    """

    def __init__(self, handler: RequestHandler) -> None:
        super().__init__(handler.path, handler, include_in_schema=False)
        self.handler = handler

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        raw = scope.get("raw_path")
        if scope["type"] != "http" or not isinstance(raw, bytes):
            return super().matches(scope)
        match, child = super().matches({**scope, "path": raw.decode("latin-1")})
        if match is not Match.NONE:
            child["path_params"] = {name: unquote(value) for name, value in child["path_params"].items()}
        return match, child


class RouteIndex(BaseRoute):
    """The routes of many paths in one lookup table.

    Each path is fixed, except that its last segment may be a parameter. Repeated slashes count as one, because clients
    join a base URL and a path without checking them.
    """

    def __init__(self, routes: Iterable[ApiRoute]) -> None:
        self.routes = tuple(routes)
        self._fixed: dict[str, ApiRoute] = {}
        self._by_parent: dict[str, ApiRoute] = {}
        for route in self.routes:
            parent, _, last = route.path.rpartition("/")
            if last.startswith("{"):
                self._by_parent[parent] = route
            else:
                self._fixed[route.path] = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        root = scope.get("root_path", "")
        raw = scope.get("raw_path")
        sent = raw.decode("latin-1") if isinstance(raw, bytes) else quote(scope["path"])
        path = REPEATED_SLASHES.sub("/", sent.removeprefix(root))
        route = self._fixed.get(path) or self._by_parent.get(path.rpartition("/")[0])
        if route is None:
            return Match.NONE, {}
        return route.matches({**scope, "raw_path": (root + path).encode("latin-1")})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:  # noqa: ANN401 - Starlette's signature
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["endpoint"](scope, receive, send)


def _read_query(model: type[ModelT], query: QueryParams) -> ModelT:
    """Validate a query. A field that is a list may be repeated. Any other field may not.

    A field that is a mapping takes parameters with a key: ``metadata[order]=17``.
    """
    defaults = {name: field.default for name, field in model.model_fields.items()}
    values: dict[str, Any] = {}
    for name in query:
        given = query.getlist(name)
        keyed = KEYED_PARAMETER.fullmatch(name)
        known = keyed[1] if keyed is not None and isinstance(defaults.get(keyed[1]), dict) else name
        if isinstance(defaults.get(known), list):
            values[name] = given
            continue
        if known in defaults and len(given) > 1:
            raise InvalidRequest(f"{name:.80} is repeated. Send it once")
        if not isinstance(defaults.get(known), dict):
            values[name] = given[0]
        elif keyed is not None:
            values.setdefault(known, {})[keyed[2]] = given[0]
        else:
            raise InvalidRequest(f"{name} needs a key. Send {name}[KEY]=VALUE")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error, model, "parameter")) from None


def _parse_body(model: type[ModelT], raw: bytes) -> ModelT:
    """Parse a body in pydantic's strict JSON mode, after the bounds are checked (depth, NUL, 64-bit numbers)."""
    read_object(raw)
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error, model, "field")) from None


def _sentence(error: ValidationError, model: type[BaseModel], what: str) -> str:
    """Return the wrong fields with their faults, without values. If a name is unknown, list the known names."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    parts = [
        (f"{'.'.join(str(part) for part in fault['loc'])[:80]}: " if fault["loc"] else "")
        + (f"unknown {what}" if fault["type"] == UNKNOWN_NAME else fault["msg"].removeprefix(OWN_SENTENCE)[:200])
        for fault in faults[:MAX_FAULTS_SHOWN]
    ]
    more = len(faults) - MAX_FAULTS_SHOWN
    if more > 0:
        parts.append(f"and {more} more")
    if any(fault["type"] == UNKNOWN_NAME for fault in faults):
        parts.append(f"known are: {', '.join(sorted(model.model_fields)) or 'none'}")
    return "; ".join(parts)
