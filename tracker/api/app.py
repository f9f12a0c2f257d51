"""The routes and the application of the API, made from the declared endpoints."""

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from tracker.api.asyncapi import describe_events
from tracker.api.audit import AUDIT
from tracker.api.documents import document_endpoint
from tracker.api.events import EVENTS
from tracker.api.gateway import GATEWAY, GATEWAY_PREFIXES
from tracker.api.gateway_errors import ENVELOPE
from tracker.api.gateway_helpers import HELPER_ENDPOINTS, HELPER_PATHS
from tracker.api.gateway_replicate import DIALECT as REPLICATE_DIALECT
from tracker.api.gateway_replicate import PREFIX as REPLICATE_PREFIX
from tracker.api.gateway_replicate import REPLICATE_GATEWAY
from tracker.api.gateway_standard import STANDARD
from tracker.api.helper_records import HELPER_RECORDS
from tracker.api.http.access import Access, AccessGuard, WrongKeys, check_keys
from tracker.api.http.capacity import Capacity, Limits
from tracker.api.http.endpoint import ApiEndpoint
from tracker.api.http.openapi import describe
from tracker.api.http.problems import PROBLEMS, ErrorDialect
from tracker.api.http.route import ApiRoute, RequestHandler, RouteIndex
from tracker.api.operations import OPERATIONS
from tracker.api.schemas import DocumentShown
from tracker.api.sink_schemas import EventsDocumentShown
from tracker.api.sinks import SINKS
from tracker.api.tasks import TASKS
from tracker.service.tracker import Tracker

DEFAULT_LIMITS: Final = Limits()


def create_api(tracker: Tracker, access: Access, *, limits: Limits = DEFAULT_LIMITS) -> Starlette:
    """Create the API as an application. Raises: SettingsError, if ``access`` has no key or a weak one."""
    return Starlette(routes=routes(tracker, access, limits=limits))


def routes(tracker: Tracker, access: Access, *, limits: Limits = DEFAULT_LIMITS) -> list[BaseRoute]:
    """Return the API's routes. Put them last in an application, because the final one answers every unknown path.

    Raises: SettingsError, if ``access`` has no key or a weak one.
    """
    check_keys(access)
    return guarded_routes(tracker, AccessGuard(access, WrongKeys(tracker.monotonic)), limits=limits)


def guarded_routes(tracker: Tracker, guard: AccessGuard, *, limits: Limits = DEFAULT_LIMITS) -> list[BaseRoute]:
    """Return the API's routes behind a guard that may get its key later. Without a key it refuses all requests."""
    prefixes = dict.fromkeys(GATEWAY_PREFIXES, ENVELOPE) | {REPLICATE_PREFIX: REPLICATE_DIALECT}
    unknown = {path + rest: dialect for path, dialect in prefixes.items() for rest in ("", "/{rest:path}")}
    # A helper call that is switched off does not exist, whatever the method.
    off = {path for path, group in HELPER_PATHS.items() if group not in tracker.helpers.groups}
    offered = [endpoint for endpoint in endpoints() if endpoint.path not in off]
    return _routes_of(offered, unknown, tracker, guard, Capacity(limits), off=off)


def health_routes(tracker: Tracker, *, ready: bool = True) -> list[BaseRoute]:
    """Return the routes of the health checks, without ``ready`` only /healthz. Put them last in an application."""
    paths = {"/healthz", "/readyz"} if ready else {"/healthz"}
    health = [endpoint for endpoint in OPERATIONS if endpoint.path in paths]
    return _routes_of(health, {}, tracker, AccessGuard(Access()), Capacity(DEFAULT_LIMITS))


def _routes_of(
    endpoints: Iterable[ApiEndpoint],
    unknown: Mapping[str, ErrorDialect],
    tracker: Tracker,
    guard: AccessGuard,
    capacity: Capacity,
    *,
    off: Iterable[str] = (),
) -> list[BaseRoute]:
    """Return a route for each path. At ``unknown`` and at ``off`` paths, errors have the form of their gateway."""

    def route(path: str, here: Mapping[str, ApiEndpoint], dialect: ErrorDialect) -> ApiRoute:
        return ApiRoute(
            RequestHandler(path=path, endpoints=here, dialect=dialect, tracker=tracker, guard=guard, capacity=capacity)
        )

    by_path: dict[str, dict[str, ApiEndpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    routes = [route(path, here, next(iter(here.values())).dialect) for path, here in by_path.items()]
    return [
        *(one for one in routes if one.handler.dialect is not ENVELOPE),
        RouteIndex(
            (*(one for one in routes if one.handler.dialect is ENVELOPE), *(route(path, {}, ENVELOPE) for path in off))
        ),
        *(route(path, {}, dialect) for path, dialect in unknown.items()),
        route("/{rest:path}", {}, PROBLEMS),
    ]


def endpoints() -> tuple[ApiEndpoint, ...]:
    """Return every endpoint, including /openapi.json and /asyncapi.json."""
    kling = (*GATEWAY, *STANDARD, *HELPER_ENDPOINTS)
    others = (*TASKS, *EVENTS, *SINKS, *OPERATIONS, *AUDIT, *HELPER_RECORDS, *kling, *REPLICATE_GATEWAY)
    events = document_endpoint(
        "asyncapi", "The channels of the events, and their messages", describe_events, EventsDocumentShown
    )
    itself = document_endpoint("openapi", "This document", lambda: describe((*others, events, itself)), DocumentShown)
    return (*others, events, itself)
