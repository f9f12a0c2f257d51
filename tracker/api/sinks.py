"""Sinks for operators: their progress, their deliveries, and replays."""

from datetime import datetime
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from tracker.api import sink_schemas as schemas
from tracker.api.http.base_schemas import Nothing
from tracker.api.http.endpoint import ApiEndpoint, ApiRequest, json_response
from tracker.api.schemas import LARGEST_ID
from tracker.api.sink_schemas import DeadLetterBody, DeliveryQuery, ReplayBody, ResumeQuery, SecretQuery
from tracker.errors import Conflict, InvalidRequest, NotFound
from tracker.model.sinks import Delivery, ReplayFilter, SinkState
from tracker.model.untrusted import identifier

sink_endpoint: Final = partial(ApiEndpoint, group="sinks", all_clients=True)


async def list_sinks(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Show the progress of each sink, and what is wrong with it."""
    sink_admin, now = request.tracker.sink_admin, request.tracker.clock()
    sinks = [
        sink_shown(state, configured=state.name in sink_admin.names, now=now) for state in await sink_admin.sinks()
    ]
    return json_response(schemas.SinksShown(sinks=sinks))


async def pause_sink(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Stop deliveries to a sink until it is resumed; its events are kept."""
    name = _sink_name(request)
    await request.tracker.sink_admin.pause(name, by=request.client.name)
    return json_response(schemas.SinkNamed(name=name, state="off"))


async def resume_sink(request: ApiRequest[ResumeQuery, Nothing]) -> Response:
    """Resume deliveries to a sink, also after its endpoint answered 410."""
    name = _sink_name(request)
    await request.tracker.sink_admin.resume(name, from_now=request.query.from_now, by=request.client.name)
    return json_response(schemas.SinkNamed(name=name, state="on"))


async def delete_sink(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Delete a sink, with its progress and its pending deliveries."""
    name = _sink_name(request)
    await request.tracker.sink_admin.delete(name, by=request.client.name)
    return json_response(schemas.SinkNamed(name=name, state="deleted"))


async def get_sink_secret(request: ApiRequest[SecretQuery, Nothing]) -> Response:
    """Show the secrets with which an endpoint verifies Homing's signature."""
    name = _sink_name(request)
    secrets = await request.tracker.sink_admin.secrets(name, request.query.client, by=request.client.name)
    return json_response(schemas.SecretShown(name=name, secrets=list(secrets)))


async def list_deliveries(request: ApiRequest[DeliveryQuery, Nothing]) -> Response:
    """List events that a sink has not accepted yet, or never will."""
    query = request.query
    found = await request.tracker.sink_admin.deliveries(
        sink=query.sink,
        task_id=await _task_id(request, query.task),
        dead=None if query.state is None else query.state == "dead_letter",
        after=None if query.cursor is None else _read_cursor(query.cursor),
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    further = f"{page[-1].cursor}.{page[-1].sink}" if len(found) > query.limit else None
    shown = [_delivery_shown(delivery) for delivery in page]
    return json_response(schemas.DeliveriesShown(deliveries=shown, next_cursor=further))


async def dead_letter_deliveries(request: ApiRequest[Nothing, DeadLetterBody]) -> Response:
    """Stop retrying deliveries; only counts them unless `dry_run` is false."""
    body = request.body
    count = await request.tracker.sink_admin.dead_letter(
        sink=body.sink,
        task_id=await _task_id(request, body.task),
        event_id=body.event,
        dry_run=body.dry_run,
        by=request.client.name,
    )
    return json_response(schemas.DeadLetteredShown(count=count, dry_run=body.dry_run))


async def replay(request: ApiRequest[Nothing, ReplayBody]) -> Response:
    """Replay past events to a sink; only counts them unless `dry_run` is false."""
    body = request.body
    task_id = await _task_id(request, body.task)
    chosen = ReplayFilter(task_id=task_id, since=body.since, until=body.until, dead=body.dead_letter)
    count = await request.tracker.sink_admin.replay(body.sink, chosen, dry_run=body.dry_run, by=request.client.name)
    return json_response(schemas.ReplayShown(count=count, dry_run=body.dry_run))


def _sink_name(request: ApiRequest[Any, Any]) -> str:
    name = identifier(request.http.path_params["name"])
    if name is None:
        raise NotFound("there is no such sink. GET /v1/sinks lists them")
    return name


async def _task_id(request: ApiRequest[Any, Any], ref: str | None) -> str | None:
    return None if ref is None else (await request.tracker.get(request.client, ref)).id


def _read_cursor(cursor: str) -> tuple[int, str]:
    """Return the event and the sink that the previous page ended with."""
    number, _, sink = cursor.partition(".")
    if not (number.isascii() and number.isdecimal() and (not sink or identifier(sink))) or int(number) > LARGEST_ID:
        raise InvalidRequest("cursor is not valid. Pass `next_cursor` of the previous page unchanged")
    return int(number), sink


def sink_shown(state: SinkState, *, configured: bool, now: datetime) -> schemas.SinkShown:
    """Return what the API shows of a sink. ``configured``: HOMING_SINKS of this process has it."""
    off = schemas.OffShown(
        by="endpoint" if state.refused else "operator",
        why=state.last_error if state.refused else "paused",
        at=state.last_error_at if state.refused else None,
        resume=f"POST /v1/sinks/{state.name}/resume, or `homing sinks resume {state.name}`",
    )
    failing = state.failures > 0 and (state.waiting > 0 or state.behind > 0)
    return schemas.SinkShown(
        name=state.name,
        url=state.address,
        state="off" if not state.on else "failing" if failing else "on",
        off=None if state.on else off,
        configured=configured,
        unread=state.behind,
        unread_at_least=state.at_least,
        pending=state.waiting,
        dead_letters=state.dead,
        delivered=state.delivered,
        lag=None if state.oldest_at is None else max((now - state.oldest_at).total_seconds(), 0),
        failures=state.failures,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
        delivered_at=state.delivered_at,
        retry_at=state.retry_at,
    )


def _delivery_shown(delivery: Delivery) -> schemas.DeliveryShown:
    return schemas.DeliveryShown(
        sink=delivery.sink,
        event_id=delivery.event_id,
        type=delivery.type,
        task_id=delivery.task_id,
        state="dead_letter" if delivery.next_at is None else "pending",
        attempts=delivery.attempts,
        error=delivery.error,
        first_at=delivery.first_at,
        last_at=delivery.last_at,
        next_at=delivery.next_at,
    )


SINKS: Final = (
    sink_endpoint("GET", "/v1/sinks", list_sinks, schemas.SinksShown),
    sink_endpoint("POST", "/v1/sinks/{name}/pause", pause_sink, schemas.SinkNamed, errors=(NotFound,)),
    sink_endpoint("POST", "/v1/sinks/{name}/resume", resume_sink, schemas.SinkNamed, errors=(NotFound,)),
    sink_endpoint("DELETE", "/v1/sinks/{name}", delete_sink, schemas.SinkNamed, errors=(NotFound, Conflict)),
    sink_endpoint("GET", "/v1/sinks/{name}/secret", get_sink_secret, schemas.SecretShown, errors=(NotFound, Conflict)),
    sink_endpoint("GET", "/v1/deliveries", list_deliveries, schemas.DeliveriesShown, errors=(NotFound,)),
    sink_endpoint(
        "POST", "/v1/deliveries/dead-letter", dead_letter_deliveries, schemas.DeadLetteredShown, errors=(NotFound,)
    ),
    sink_endpoint("POST", "/v1/replay", replay, schemas.ReplayShown, errors=(NotFound, Conflict)),
)
