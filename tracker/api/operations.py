"""Counts, orphan callbacks, shared callback URLs and health."""

from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from tracker.api import health_schemas, schemas
from tracker.api import rendering as show
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.endpoint import ApiEndpoint, ApiRequest, json_response
from tracker.api.schemas import LARGEST_ID, CallbackUrlBody, PageQuery
from tracker.errors import NotFound

operator_endpoint: Final = partial(ApiEndpoint, group="operations", all_clients=True)
health_endpoint: Final = partial(ApiEndpoint, group="health", secured=False)


async def get_stats(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Count the tasks that you may see."""
    tracker, client = request.tracker, request.client
    return json_response(show.stats(await tracker.stats(client), await tracker.habits(client)))


async def list_orphans(request: ApiRequest[PageQuery, Nothing]) -> Response:
    """List callbacks for unknown tasks."""
    orphans = await request.tracker.orphans(limit=request.query.limit)
    return json_response(schemas.OrphansShown(orphans=[show.orphan(orphan) for orphan in orphans]))


async def list_callback_urls(request: ApiRequest[Nothing, Nothing]) -> Response:
    """List the shared callback URLs, without their tokens."""
    urls = await request.tracker.shared_callback_urls()
    return json_response(schemas.CallbackUrlsShown(callback_urls=[show.shared_callback_url(url) for url in urls]))


async def create_callback_url(request: ApiRequest[Nothing, CallbackUrlBody]) -> Response:
    """Create a shared callback URL. Only this response shows it."""
    body = request.body
    shared, url = await request.tracker.create_callback_url(
        request.client, provider=body.provider, kind=body.kind, label=body.label
    )
    shown = schemas.NewCallbackUrlShown(shared_callback_url=show.shared_callback_url(shared), callback_url=url)
    return json_response(shown, HTTPStatus.CREATED)


async def revoke_callback_url(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Revoke a shared callback URL. Requests to it then get 404."""
    ref = request.ref
    if not (ref.isascii() and ref.isdecimal()) or int(ref) > LARGEST_ID:
        raise NotFound("no shared callback URL has this ID")
    revoked = await request.tracker.revoke_callback_url(int(ref), by=request.client.name)
    return json_response(show.shared_callback_url(revoked))


async def get_alive(request: ApiRequest[Nothing, Nothing]) -> Response:  # noqa: ARG001 - all endpoints have the same signature
    """Show that the process answers."""
    return json_response(health_schemas.AliveShown())


async def get_ready(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Show whether Homing can serve requests, or why not."""
    checks = await request.tracker.check()
    ready = all(check.ok or not check.fatal for check in checks)
    shown = health_schemas.ReadyShown(ready=ready, checks=[show.check(check) for check in checks])
    return json_response(shown, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


OPERATIONS: Final = (
    operator_endpoint("GET", "/v1/stats", get_stats, schemas.StatsShown, all_clients=False),
    operator_endpoint("GET", "/v1/orphans", list_orphans, schemas.OrphansShown),
    operator_endpoint("GET", "/v1/callback-urls", list_callback_urls, schemas.CallbackUrlsShown),
    operator_endpoint(
        "POST", "/v1/callback-urls", create_callback_url, schemas.NewCallbackUrlShown, status=HTTPStatus.CREATED
    ),
    operator_endpoint("DELETE", "/v1/callback-urls/{ref}", revoke_callback_url, schemas.CallbackUrlShown),
    health_endpoint("GET", "/healthz", get_alive, health_schemas.AliveShown),
    health_endpoint("GET", "/readyz", get_ready, health_schemas.ReadyShown, also=(HTTPStatus.SERVICE_UNAVAILABLE,)),
)
