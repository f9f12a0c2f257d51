"""The gateway in Replicate's shape: a client of Replicate changes its base URL and nothing else.

As at Kling's gateway, answers come from the database, with Homing's task ID. An answered create request never creates a
second prediction. An error answer means that none was created.
"""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import Field, JsonValue
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tracker.api.gateway import LISTED_STATUSES, TASK_TAGS, tags_of
from tracker.api.gateway_schemas import IgnoredQuery
from tracker.api.http.base_schemas import Nothing, Shown
from tracker.api.http.body import read_body, require_json
from tracker.api.http.disconnect import CLIENT_LEFT
from tracker.api.http.endpoint import PROVIDER_ERRORS, ApiEndpoint, ApiRequest, BodySchemas
from tracker.api.http.problems import ErrorDialect, detail_of, headers_of
from tracker.api.submitting import IDEMPOTENCY_KEY, idempotency_key, while_waited_for
from tracker.errors import Conflict, HomingError, NotFound, Refused
from tracker.model.records import TaskFilter
from tracker.model.untrusted import READ_IN_THREAD, JsonObject, read_object
from tracker.providers.base import Order, Provider
from tracker.providers.replicate_gateway import created, page, problem, with_urls
from tracker.providers.replicate_order import ALL_EVENTS, EVENTS, INPUT, MODEL_FORMS, PREDICTIONS, VERSION, WEBHOOK

REPLICATE: Final = "replicate"
PREFIX: Final = "/replicate"
PAGE: Final = 100
NOTHING_HERE: Final = (
    "this gateway has no such path. It takes POST /v1/predictions, /v1/models/{owner}/{name}/predictions and "
    "/v1/deployments/{owner}/{name}/predictions, and GET /v1/predictions and /v1/predictions/{id}, below /replicate"
)
TITLES: Final = {422: "Input validation failed", 401: "Unauthenticated"}


class PredictionShown(Shown):
    """A prediction, in Replicate's shape. Its ID is Homing's."""

    id: str
    model: str
    version: str
    input: JsonValue
    output: JsonValue
    error: str | None
    status: Annotated[str, Field(description="starting, processing, succeeded, failed or canceled.")]
    logs: Annotated[str, Field(description="Always empty: Homing keeps no logs.")]
    metrics: dict[str, JsonValue]
    data_removed: bool
    source: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    urls: dict[str, str]


class PredictionsShown(Shown):
    """One page of your predictions, newest first. `next` is the address of the next one."""

    previous: str | None
    next: str | None
    results: list[PredictionShown]


class ErrorShown(Shown):
    """An error, in Replicate's shape."""

    title: str
    detail: str
    status: int


class PredictionsQuery(IgnoredQuery):
    """A page of the list. The address of the next page has the cursor."""

    cursor: str | None = None


def _status(error: type[HomingError]) -> int:
    """Return the HTTP status: that of the API, but 422 for an unusable field, as at Replicate."""
    return HTTPStatus.UNPROCESSABLE_ENTITY if error.status == HTTPStatus.BAD_REQUEST else error.status


def _refuse(error: HomingError, request_id: str) -> Response:
    del request_id  # It is in the header.
    status = error.http_status if isinstance(error, Refused) else _status(type(error))
    body = problem(status, TITLES.get(status, error.title), detail_of(error))
    return JSONResponse(body, status_code=status, headers=headers_of(error))


DIALECT: Final = ErrorDialect(
    schema=ErrorShown,
    media_type="application/json",
    status=_status,
    refuse=_refuse,
    nothing_here=NOTHING_HERE,
)


async def create_prediction(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Submit a prediction of a version that the body names."""
    return await _create(request, model="")


async def create_prediction_of_model(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Submit a prediction of a model."""
    return await _create(request, model="{owner}/{name}".format(**request.http.path_params))


async def create_prediction_of_deployment(request: ApiRequest[Nothing, Nothing]) -> Response:
    """Submit a prediction of a deployment."""
    return await _create(request, model="deployments/{owner}/{name}".format(**request.http.path_params))


async def _create(request: ApiRequest[Any, Any], *, model: str) -> Response:
    http, limits, tracker = request.http, request.limits, request.tracker
    require_json(http)
    key, tags = idempotency_key(http), tags_of(http)
    raw = await read_body(http, request.resources, limit=limits.gateway_body, within=limits.gateway_body_time)
    parse = partial(_parse, tracker.providers[REPLICATE].provider, raw, model)
    order = await asyncio.to_thread(parse) if len(raw) > READ_IN_THREAD else parse()
    del raw
    task = await while_waited_for(
        request, tracker.submit(request.client, REPLICATE, order, tags=tags, idempotency_key=key, answered_later=True)
    )
    if task is None:
        return Response(status_code=CLIENT_LEFT)
    answer = created(task, base_url=_base_url(http))
    return JSONResponse(answer, HTTPStatus.CREATED, background=BackgroundTask(tracker.answered, task.id))


def _parse(provider: Provider, raw: bytes, model: str) -> Order:
    return provider.order(PREDICTIONS, read_object(raw), model=model)


async def get_prediction(request: ApiRequest[IgnoredQuery, Nothing]) -> Response:
    """Return one prediction; look an unknown ID up at the provider once."""
    try:
        task = await request.tracker.fetch(request.client, request.ref, provider=REPLICATE, kind=PREDICTIONS)
    except NotFound:
        raise NotFound("The requested resource could not be found.") from None
    return JSONResponse(with_urls(task, base_url=_base_url(request.http)))


async def list_predictions(request: ApiRequest[PredictionsQuery, Nothing]) -> Response:
    """List your predictions, newest first."""
    wanted = TaskFilter(
        client=None if request.client.sees_all else request.client.name, provider=REPLICATE, statuses=LISTED_STATUSES
    )
    found = await request.tracker.find(wanted, client=request.client, limit=PAGE, cursor=request.query.cursor)
    following = None if found.next_cursor is None else urlencode({"cursor": found.next_cursor})
    return JSONResponse(page(found.tasks, base_url=_base_url(request.http), following=following))


def _base_url(request: Request) -> str:
    """Return the base URL of the gateway as the client used it. It sends its key to addresses below this URL.

    Behind a proxy that ends TLS, the request itself is plain. The header can only make the address safer.
    """
    secure = request.headers.get("x-forwarded-proto", "").strip().lower() == "https"
    base = request.base_url.replace(scheme="https") if secure else request.base_url
    return str(base).rstrip("/") + PREFIX


def _schema(*, versioned: bool) -> BodySchemas:
    properties: JsonObject = {
        INPUT: {"type": "object", "description": "The inputs of the model."},
        WEBHOOK: {"type": "string", "description": "Your callback URL. It gets callbacks in Replicate's shape."},
        EVENTS: {"type": "array", "items": {"enum": list(ALL_EVENTS)}},
    }
    if versioned:
        properties[VERSION] = {"type": "string", "description": f"{MODEL_FORMS}."}
    name = "VersionedPredictionBody" if versioned else "PredictionBody"
    required = [INPUT, VERSION] if versioned else [INPUT]
    schema: JsonObject = {"type": "object", "title": name, "properties": properties, "required": list(required)}
    return BodySchemas(name=name, schemas={name: schema})


_create_endpoint: Final = partial(
    ApiEndpoint,
    group="gateway",
    dialect=DIALECT,
    status=HTTPStatus.CREATED,
    headers=(IDEMPOTENCY_KEY, TASK_TAGS),
    errors=(Conflict, *PROVIDER_ERRORS),
)
_read_endpoint: Final = partial(ApiEndpoint, group="gateway", dialect=DIALECT)
PREDICTIONS_PATH: Final = f"{PREFIX}/v1/predictions"
REPLICATE_GATEWAY: Final = (
    _create_endpoint(
        "POST", PREDICTIONS_PATH, create_prediction, PredictionShown, documented_body=_schema(versioned=True)
    ),
    _create_endpoint(
        "POST",
        f"{PREFIX}/v1/models/{{owner}}/{{name}}/predictions",
        create_prediction_of_model,
        PredictionShown,
        documented_body=_schema(versioned=False),
    ),
    _create_endpoint(
        "POST",
        f"{PREFIX}/v1/deployments/{{owner}}/{{name}}/predictions",
        create_prediction_of_deployment,
        PredictionShown,
        documented_body=_schema(versioned=False),
    ),
    _read_endpoint("GET", PREDICTIONS_PATH, list_predictions, PredictionsShown),
    _read_endpoint("GET", f"{PREDICTIONS_PATH}/{{ref}}", get_prediction, PredictionShown, errors=PROVIDER_ERRORS),
)
