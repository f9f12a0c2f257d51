"""What concerns the whole house: counts, orphans, standing addresses, and whether we are well."""

from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from tracker.api import health_schemas, schemas
from tracker.api import rendering as show
from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, shown
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.schemas import Nothing
from tracker.api.schemas import AddressBody, PageQuery
from tracker.errors import Forbidden, HomingError, NotFound
from tracker.model.records import Check

GROUP: Final = "operations"
HEALTH: Final = "health"
LARGEST_ID: Final = 2**63 - 1


def all_seeing(ask: Ask[Any, Any]) -> None:
    """Raise Forbidden unless the caller sees every client's tasks."""
    if not ask.caller.sees_all:
        raise Forbidden("this concerns every client: it takes a key that sees all (name*:key in HOMING_API_KEYS)")


async def _stats(ask: Ask[Nothing, Nothing]) -> Response:
    return shown(show.stats(await ask.tracker.stats(ask.caller), await ask.tracker.habits(ask.caller)))


async def _orphans(ask: Ask[PageQuery, Nothing]) -> Response:
    all_seeing(ask)
    orphans = await ask.tracker.orphans(limit=ask.query.limit)
    return shown(schemas.OrphansShown(orphans=[show.orphan(orphan) for orphan in orphans]))


async def _addresses(ask: Ask[Nothing, Nothing]) -> Response:
    all_seeing(ask)
    addresses = await ask.tracker.addresses()
    return shown(schemas.AddressesShown(addresses=[show.address(address) for address in addresses]))


async def _create_address(ask: Ask[Nothing, AddressBody]) -> Response:
    all_seeing(ask)
    body = ask.body
    address, url = await ask.tracker.create_address(
        ask.caller, provider=body.provider, kind=body.kind, label=body.label
    )
    told = schemas.NewAddressShown(address=show.address(address), callback_url=url)
    return shown(told, HTTPStatus.CREATED)


async def _revoke_address(ask: Ask[Nothing, Nothing]) -> Response:
    all_seeing(ask)
    ref = ask.ref
    if not (ref.isascii() and ref.isdecimal()) or int(ref) > LARGEST_ID:
        raise NotFound("no callback address has such an id")
    return shown(show.address(await ask.tracker.revoke_address(int(ref), by=ask.caller.name)))


async def _alive(ask: Ask[Nothing, Nothing]) -> Response:  # noqa: ARG001 - every endpoint is asked alike
    return shown(health_schemas.AliveShown())


async def _ready(ask: Ask[Nothing, Nothing]) -> Response:
    try:
        checks = await ask.tracker.check()
    except HomingError as error:
        checks = [Check(name=error.title, ok=False, detail=error.detail)]
    ready = all(check.ok or not check.fatal for check in checks)
    told = health_schemas.ReadyShown(ready=ready, checks=[show.check(check) for check in checks])
    return shown(told, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


OPERATIONS: Final[tuple[AnyEndpoint, ...]] = (
    Endpoint(
        method="GET",
        path="/v1/stats",
        name="get_stats",
        summary="Count the tasks that you may see",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_stats,
        query=Nothing,
        body=Nothing,
        reply=schemas.StatsShown,
    ),
    Endpoint(
        method="GET",
        path="/v1/orphans",
        name="list_orphans",
        summary="List deliveries about tasks that nobody told us of",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_orphans,
        query=PageQuery,
        body=Nothing,
        reply=schemas.OrphansShown,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="GET",
        path="/v1/callback-addresses",
        name="list_addresses",
        summary="List the shared callback URLs, without their tokens",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_addresses,
        query=Nothing,
        body=Nothing,
        reply=schemas.AddressesShown,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="POST",
        path="/v1/callback-addresses",
        name="create_address",
        summary="Create a shared callback URL; only this answer shows it",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_create_address,
        query=Nothing,
        body=AddressBody,
        reply=schemas.NewAddressShown,
        errors=(Forbidden,),
        status=HTTPStatus.CREATED,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/callback-addresses/{ref}",
        name="revoke_address",
        summary="Revoke a shared callback URL; requests to it then get 404",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_revoke_address,
        query=Nothing,
        body=Nothing,
        reply=schemas.AddressShown,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        name="get_alive",
        summary="Tell that the process answers",
        group=HEALTH,
        dialect=PROBLEMS,
        answer=_alive,
        query=Nothing,
        body=Nothing,
        reply=health_schemas.AliveShown,
        secured=False,
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        name="get_ready",
        summary="Tell whether requests can be served, or why not",
        group=HEALTH,
        dialect=PROBLEMS,
        answer=_ready,
        query=Nothing,
        body=Nothing,
        reply=health_schemas.ReadyShown,
        also=(HTTPStatus.SERVICE_UNAVAILABLE,),
        secured=False,
    ),
)
