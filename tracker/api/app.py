"""The API's routes and application, composed from the endpoints' declarations."""

from collections.abc import Iterable, Iterator
from typing import Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from tracker.api.asyncapi import describe_events
from tracker.api.audit import AUDIT
from tracker.api.documents import document_endpoint
from tracker.api.events import EVENTS
from tracker.api.gateway import FOREIGN, GATEWAY
from tracker.api.gateway_errors import ENVELOPE
from tracker.api.http.access import Access, check_keys
from tracker.api.http.access_guard import AccessGuard
from tracker.api.http.capacity import Capacity, Limits
from tracker.api.http.endpoint import AnyEndpoint, Dialect
from tracker.api.http.openapi import describe
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.route import Desk, Place, PlaceIndex
from tracker.api.operations import OPERATIONS
from tracker.api.schemas import DocumentShown
from tracker.api.sink_schemas import EventsDocumentShown
from tracker.api.sinks import SINKS
from tracker.api.tasks import TASKS
from tracker.service.tracker import Tracker

DEFAULT_LIMITS: Final = Limits()


def create_api(tracker: Tracker, access: Access, *, limits: Limits = DEFAULT_LIMITS) -> Starlette:
    """Make the API as an application of its own. Raises SettingsError where ``access`` has no key, or a weak one."""
    return Starlette(routes=routes(tracker, access, limits=limits))


def routes(tracker: Tracker, access: Access, *, limits: Limits = DEFAULT_LIMITS) -> list[BaseRoute]:
    """Return the API's routes. Put them last in an application: the final one answers every unknown path.

    Raises: SettingsError, where ``access`` has no key, or a weak one.
    """
    check_keys(access)
    return guarded_routes(tracker, AccessGuard(access), limits=limits)


def guarded_routes(tracker: Tracker, guard: AccessGuard, *, limits: Limits = DEFAULT_LIMITS) -> list[BaseRoute]:
    """Return the API's routes behind a guard that may get its key later. Without a key it refuses all requests."""
    return _placed(endpoints(), _foreign(), tracker, guard, limits)


def health_routes(tracker: Tracker, *, ready: bool = True) -> list[BaseRoute]:
    """Return the routes that tell how we are, without ``ready`` only that we answer; to be put last as well."""
    paths = {"/healthz", "/readyz"} if ready else {"/healthz"}
    told = [endpoint for endpoint in OPERATIONS if endpoint.path in paths]
    return _placed(told, (), tracker, AccessGuard(Access()), DEFAULT_LIMITS)


def _placed(
    told: Iterable[AnyEndpoint], foreign: Iterable[str], tracker: Tracker, guard: AccessGuard, limits: Limits
) -> list[BaseRoute]:
    capacity = Capacity(limits)

    def place(path: str, endpoints: tuple[AnyEndpoint, ...], dialect: Dialect) -> Place:
        by_method = {endpoint.method: endpoint for endpoint in endpoints}
        desk = Desk(path, by_method, dialect=dialect, tracker=tracker, guard=guard, limits=limits, capacity=capacity)
        return Place(path, endpoints=endpoints, desk=desk)

    by_path: dict[str, tuple[AnyEndpoint, ...]] = {}
    for endpoint in told:
        by_path[endpoint.path] = (*by_path.get(endpoint.path, ()), endpoint)
    places = [place(path, here, here[0].dialect) for path, here in by_path.items()]
    return [
        *(one for one in places if one.dialect is PROBLEMS),
        PlaceIndex(one for one in places if one.dialect is ENVELOPE),
        *(place(path, (), ENVELOPE) for path in foreign),
        place("/{rest:path}", (), PROBLEMS),
    ]


def endpoints() -> tuple[AnyEndpoint, ...]:
    """Return every endpoint there is, /openapi.json and /asyncapi.json among them."""
    told = (*TASKS, *EVENTS, *SINKS, *OPERATIONS, *AUDIT, *GATEWAY)
    events = document_endpoint(
        "asyncapi", "Where events go, and what they look like", describe_events, EventsDocumentShown
    )
    itself = document_endpoint("openapi", "This document", lambda: describe((*told, events, itself)), DocumentShown)
    return (*told, events, itself)


def _foreign() -> Iterator[str]:
    for path in FOREIGN:
        yield path
        yield path + "/{rest:path}"
