"""Replicate's paths, below `/replicate`: create, query, list, cancel, and the secret of its webhooks.

Documented: the paths; a page of 100 predictions, newest first, with full addresses in `next` and `previous`; `webhook`
and `webhook_events_filter`; cancel; problem details as errors; 429 with `Retry-After`; one secret per account.
Assumed: the texts of errors, the form of IDs and cursors, the version of a model that is named without one, and that
`Prefer: wait` is answered at once.
"""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hmac import compare_digest
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from homing.sandbox import results
from homing.sandbox.faults import Faults
from homing.sandbox.prediction import Prediction
from homing.sandbox.predictions import Predictions
from homing.sandbox.replies import Lost, Wire
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.submission import JsonObject

PREFIX = "/replicate"
_PAGE = 100
_EVENTS = ("start", "output", "logs", "completed")
_SOME_VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
_SOME_MODEL = "replicate/hello-world"
_REFERENCE = re.compile(r"(?:(?P<model>[\w.-]+/[\w.-]+):)?(?P<version>[0-9a-f]{64})|(?P<alone>[\w.-]+/[\w.-]+)")
_FILE = re.compile(r"out-\d\.png")
_EVEN = 0.5

Answer = Callable[[Request, str], Awaitable[Response]]


class RefusalError(Exception):
    """An error answer in the form of problem details."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class ReplicateEndpoints:
    """The HTTP endpoints of Replicate."""

    def __init__(self, settings: SandboxSettings, faults: Faults, predictions: Predictions, wire: Wire) -> None:
        self._settings = settings
        self._faults = faults
        self._predictions = predictions
        self._wire = wire

    def routes(self) -> list[Route]:
        paths: Mapping[tuple[str, str], tuple[str, Answer]] = {
            ("POST", "/v1/predictions"): ("create", self._create),
            ("POST", "/v1/models/{owner}/{name}/predictions"): ("create", self._create),
            ("POST", "/v1/deployments/{owner}/{name}/predictions"): ("create", self._create),
            ("GET", "/v1/predictions"): ("list", self._list),
            ("GET", "/v1/predictions/{id}"): ("single", self._single),
            ("POST", "/v1/predictions/{id}/cancel"): ("cancel", self._cancel),
            ("GET", "/v1/webhooks/default/secret"): ("secret", self._secret),
        }
        routes = [
            Route(PREFIX + path, partial(self._guarded, name=name, answer=answer), methods=[method])
            for (method, path), (name, answer) in paths.items()
        ]
        absent = partial(self._guarded, name="unknown", answer=self._absent)
        return [
            *routes,
            Route(f"{PREFIX}/files/{{id}}/{{name}}", self._file, methods=["GET"]),
            Route(PREFIX + "/{rest:path}", absent, methods=["GET", "POST"]),
        ]

    async def _guarded(self, request: Request, *, name: str, answer: Answer) -> Response:
        number = self._predictions.count(name)
        try:
            account = self._account(request.headers.get("authorization", ""))
            if name != "create" and self._faults.strike("server_error", number, f"replicate/{name}"):
                raise RefusalError(500, "Internal server error", "Something went wrong")  # noqa: TRY301 - one way to refuse
            reply = await answer(request, account)
        except RefusalError as refusal:
            reply = JSONResponse(
                {"title": refusal.title, "detail": refusal.detail, "status": refusal.status},
                refusal.status,
                {"retry-after": "1"} if refusal.status == 429 else None,  # noqa: PLR2004 - too many requests
            )
        if self._faults.strike("slow", number, f"replicate/{name}"):
            await self._wire.pause(self._settings.slow_by)
        return reply

    def _account(self, authorization: str) -> str:
        scheme, _, key = authorization.partition(" ")
        for number, known in enumerate(self._settings.api_keys, start=1):
            if scheme in {"Bearer", "Token"} and compare_digest(known.encode(), key.strip().encode()):
                return f"api-key-{number}"
        raise RefusalError(401, "Unauthenticated", "You did not pass a valid authentication token")

    async def _create(self, request: Request, account: str) -> Response:
        number = self._predictions.requests["create"]
        body = await _body(request)
        made = self._read(request, body, account)
        if self._faults.strike("submit_busy", number, "replicate"):
            raise RefusalError(429, "Too many requests", "Request was throttled. Expected available in 1 second.")
        broken = self._faults.strike("server_error", number, "replicate/create")
        if broken is None or broken.random() < _EVEN:
            self._predictions.enter(made)
        if broken is not None:
            raise RefusalError(500, "Internal server error", "Something went wrong")
        if dice := self._faults.strike("submit_reply_lost", number, "replicate"):
            return Lost(self._wire, dice.choice((0.0, self._settings.hang_for)))
        return JSONResponse(made.as_json(), 201)

    def _read(self, request: Request, body: JsonObject, account: str) -> Prediction:
        """Read a create request: the input must be an object, and the version is in the body of one path only."""
        named, path = body.get("version"), request.path_params
        if not isinstance(body.get("input"), dict):
            raise RefusalError(422, "Input validation failed", "- input is required")
        model, version = f"{path.get('owner')}/{path.get('name')}", _SOME_VERSION
        if not path:
            reference = _REFERENCE.fullmatch(named) if isinstance(named, str) else None
            if reference is None:
                raise RefusalError(422, "Input validation failed", "- version is required")
            model = reference["model"] or reference["alone"] or _SOME_MODEL
            version = reference["version"] or _SOME_VERSION
        elif named is not None:
            raise RefusalError(422, "Input validation failed", "- Additional property version is not allowed")
        events = body.get("webhook_events_filter", list(_EVENTS))
        webhook = body.get("webhook")
        if webhook is not None and not (isinstance(webhook, str) and webhook.startswith(("http://", "https://"))):
            raise RefusalError(422, "Input validation failed", "- webhook must be a URL")
        if not isinstance(events, list) or any(event not in _EVENTS for event in events):
            raise RefusalError(422, "Input validation failed", "- webhook_events_filter has an unknown event")
        return Prediction(
            index=len(self._predictions),
            id=self._predictions.next_id(),
            model=model,
            version=version,
            input=body["input"],
            account=account,
            base_url=f"{str(request.base_url).rstrip('/')}{PREFIX}",
            webhook=webhook,
            events=tuple(events),
        )

    async def _single(self, request: Request, account: str) -> Response:
        del account
        prediction = self._found(request)
        prediction.queries += 1
        return JSONResponse(prediction.as_json())

    async def _cancel(self, request: Request, account: str) -> Response:
        del account
        prediction = self._found(request)
        if not prediction.final:
            self._predictions.finish(prediction, status="canceled")
        return JSONResponse(prediction.as_json())

    async def _list(self, request: Request, account: str) -> Response:
        del account
        newest = list(self._predictions)[::-1]
        start = _opened(request.query_params.get("cursor"))
        address = f"{str(request.base_url).rstrip('/')}{PREFIX}/v1/predictions"
        following = f"{address}?cursor={_closed(start + _PAGE)}" if start + _PAGE < len(newest) else None
        previous = f"{address}?cursor={_closed(max(0, start - _PAGE))}" if start else None
        shown = [prediction.as_json() for prediction in newest[start : start + _PAGE]]
        return JSONResponse({"previous": previous, "next": following, "results": shown})

    async def _secret(self, request: Request, account: str) -> Response:
        del request, account
        secrets = self._settings.webhook_secrets
        return JSONResponse({"key": secrets[0]}) if secrets else await self._absent()

    async def _file(self, request: Request) -> Response:
        name, prediction = request.path_params["name"], self._predictions.by_id(request.path_params["id"])
        if prediction is None or _FILE.fullmatch(name) is None:
            return Response(status_code=404)
        content = results.content(f"{self._settings.seed}/{prediction.index}/{name}", "png")
        return Response(content, media_type=results.MEDIA_TYPES["png"])

    async def _absent(self, *_: object) -> Response:
        raise RefusalError(404, "Not found", "The requested resource could not be found.")

    def _found(self, request: Request) -> Prediction:
        prediction = self._predictions.by_id(request.path_params["id"])
        if prediction is None:
            raise RefusalError(404, "Not found", "The requested resource could not be found.")
        return prediction


async def _body(request: Request) -> JsonObject:
    try:
        body: Any = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RefusalError(400, "Bad request", "The request body is not valid JSON")
    return body


def _closed(start: int) -> str:
    return base64.urlsafe_b64encode(f"p={start}".encode()).decode().rstrip("=")


def _opened(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor + "==").decode().removeprefix("p="))
    except ValueError:
        raise RefusalError(400, "Bad request", "Invalid cursor") from None
