"""Operating the sinks, for keys that see all: how far each is, what it could not be told, and telling it again."""

from datetime import datetime
from typing import Any, Final

from starlette.responses import Response

from tracker.api import sink_schemas as schemas
from tracker.api.http.endpoint import AnyEndpoint, Ask, Endpoint, shown
from tracker.api.http.problems import PROBLEMS
from tracker.api.http.schemas import Nothing
from tracker.api.operations import all_seeing
from tracker.api.schemas import LARGEST
from tracker.api.sink_schemas import DeliveryQuery, GiveUpBody, ReplayBody, ResumeQuery, SecretQuery
from tracker.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tracker.model.sinks import Delivery, ReplayFilter, SinkState
from tracker.model.untrusted import identifier

GROUP: Final = "sinks"


async def _sinks(ask: Ask[Nothing, Nothing]) -> Response:
    all_seeing(ask)
    board, now = ask.tracker.switchboard, ask.tracker.clock()
    told = [sink_shown(state, named=state.name in board.named, now=now) for state in await board.sinks()]
    return shown(schemas.SinksShown(sinks=told))


async def _pause(ask: Ask[Nothing, Nothing]) -> Response:
    all_seeing(ask)
    await ask.tracker.switchboard.pause(_name(ask), by=ask.caller.name)
    return shown(schemas.SinkNamed(name=_name(ask), state="off"))


async def _resume(ask: Ask[ResumeQuery, Nothing]) -> Response:
    all_seeing(ask)
    await ask.tracker.switchboard.resume(_name(ask), from_now=ask.query.from_now, by=ask.caller.name)
    return shown(schemas.SinkNamed(name=_name(ask), state="on"))


async def _forget(ask: Ask[Nothing, Nothing]) -> Response:
    all_seeing(ask)
    await ask.tracker.switchboard.forget(_name(ask), by=ask.caller.name)
    return shown(schemas.SinkNamed(name=_name(ask), state="forgotten"))


async def _secret(ask: Ask[SecretQuery, Nothing]) -> Response:
    all_seeing(ask)
    secrets = await ask.tracker.switchboard.secrets(_name(ask), ask.query.client, by=ask.caller.name)
    return shown(schemas.SecretShown(name=_name(ask), secrets=list(secrets)))


async def _deliveries(ask: Ask[DeliveryQuery, Nothing]) -> Response:
    all_seeing(ask)
    query = ask.query
    found = await ask.tracker.switchboard.deliveries(
        sink=query.sink,
        task_id=await _task_id(ask, query.task),
        dead=None if query.state is None else query.state == "dead",
        after=_place(query.cursor),
        limit=query.limit + 1,
    )
    told = found[: query.limit]
    further = f"{told[-1].cursor}.{told[-1].sink}" if len(found) > query.limit else None
    return shown(schemas.DeliveriesShown(deliveries=[_delivery(one) for one in told], next_cursor=further))


async def _replay(ask: Ask[Nothing, ReplayBody]) -> Response:
    all_seeing(ask)
    body = ask.body
    again = ReplayFilter(task_id=await _task_id(ask, body.task), since=body.since, until=body.until, dead=body.dead)
    count = await ask.tracker.switchboard.replay(body.sink, again, dry_run=body.dry_run, by=ask.caller.name)
    return shown(schemas.ReplayShown(count=count, dry_run=body.dry_run))


async def _give_up(ask: Ask[Nothing, GiveUpBody]) -> Response:
    all_seeing(ask)
    body = ask.body
    count = await ask.tracker.switchboard.give_up(
        sink=body.sink,
        task_id=await _task_id(ask, body.task),
        event_id=body.event,
        dry_run=body.dry_run,
        by=ask.caller.name,
    )
    return shown(schemas.GiveUpShown(count=count, dry_run=body.dry_run))


def _name(ask: Ask[Any, Any]) -> str:
    name = identifier(ask.request.path_params["name"])
    if name is None:
        raise NotFound("there is no such sink; GET /v1/sinks lists them")
    return name


async def _task_id(ask: Ask[Any, Any], ref: str | None) -> str | None:
    return None if ref is None else (await ask.tracker.get(ask.caller, ref)).id


def _place(cursor: str | None) -> tuple[int, str] | None:
    """Read where the page before ended."""
    if cursor is None:
        return None
    number, _, sink = cursor.partition(".")
    if not (number.isascii() and number.isdecimal() and (not sink or identifier(sink))) or int(number) > LARGEST:
        raise InvalidRequest("cursor: give next_cursor of the page before as it is")
    return int(number), sink


def sink_shown(state: SinkState, *, named: bool, now: datetime) -> schemas.SinkShown:
    """Return what the API shows of a sink; ``named``: the settings of this process name it."""
    return schemas.SinkShown(
        name=state.name,
        address=state.address,
        state="off" if not state.on else "failing" if state.failures and (state.waiting or state.behind) else "on",
        off=None if state.on else _off(state),
        named=named,
        behind=state.behind,
        behind_at_least=state.at_least,
        waiting=state.waiting,
        dead=state.dead,
        delivered=state.delivered,
        lag=None if state.oldest_at is None else max((now - state.oldest_at).total_seconds(), 0),
        failures=state.failures,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
        delivered_at=state.delivered_at,
        retry_at=state.retry_at,
    )


def _off(state: SinkState) -> schemas.OffShown:
    return schemas.OffShown(
        by="receiver" if state.refused else "operator",
        why=state.last_error if state.refused else "paused",
        at=state.last_error_at if state.refused else None,
        resume=f"POST /v1/sinks/{state.name}/resume, or homing sinks resume {state.name}",
    )


def _delivery(delivery: Delivery) -> schemas.DeliveryShown:
    return schemas.DeliveryShown(
        sink=delivery.sink,
        event_id=delivery.event_id,
        type=delivery.type,
        task_id=delivery.task_id,
        state="dead" if delivery.next_at is None else "waiting",
        attempts=delivery.attempts,
        error=delivery.error,
        first_at=delivery.first_at,
        last_at=delivery.last_at,
        next_at=delivery.next_at,
    )


SINKS: Final[tuple[AnyEndpoint, ...]] = (
    Endpoint(
        method="GET",
        path="/v1/sinks",
        name="list_sinks",
        summary="Show the progress of each sink, and what is wrong with it",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_sinks,
        query=Nothing,
        body=Nothing,
        reply=schemas.SinksShown,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="POST",
        path="/v1/sinks/{name}/pause",
        name="pause_sink",
        summary="Stop deliveries to a sink until it is resumed; its events are kept",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_pause,
        query=Nothing,
        body=Nothing,
        reply=schemas.SinkNamed,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/sinks/{name}/resume",
        name="resume_sink",
        summary="Resume deliveries to a sink, also if its receiver had asked for no more",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_resume,
        query=ResumeQuery,
        body=Nothing,
        reply=schemas.SinkNamed,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="DELETE",
        path="/v1/sinks/{name}",
        name="forget_sink",
        summary="Delete a sink, with its progress and its pending deliveries",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_forget,
        query=Nothing,
        body=Nothing,
        reply=schemas.SinkNamed,
        errors=(Forbidden, NotFound, Conflict),
    ),
    Endpoint(
        method="GET",
        path="/v1/sinks/{name}/secret",
        name="get_sink_secret",
        summary="Show the secrets that a receiver verifies Homing's signature with",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_secret,
        query=SecretQuery,
        body=Nothing,
        reply=schemas.SecretShown,
        errors=(Forbidden, NotFound, Conflict),
    ),
    Endpoint(
        method="GET",
        path="/v1/deliveries",
        name="list_deliveries",
        summary="List events that a sink has not accepted yet, or never will",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_deliveries,
        query=DeliveryQuery,
        body=Nothing,
        reply=schemas.DeliveriesShown,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/deliveries/give-up",
        name="give_up_deliveries",
        summary="Stop retrying deliveries; only counts them unless `dry_run` is false",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_give_up,
        query=Nothing,
        body=GiveUpBody,
        reply=schemas.GiveUpShown,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/replay",
        name="replay",
        summary="Replay past events to a sink; only counts them unless `dry_run` is false",
        group=GROUP,
        dialect=PROBLEMS,
        answer=_replay,
        query=Nothing,
        body=ReplayBody,
        reply=schemas.ReplayShown,
        errors=(Forbidden, NotFound, Conflict),
    ),
)
