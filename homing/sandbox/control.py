"""The steering paths under `/sandbox`, which the provider does not have: for tests, on loopback, without a key.

A web page must not control the sandbox. So the Host header must be an address or a name without dots, an Origin header
must be the sandbox's own, and a body must be `application/json`, which a page of another origin cannot send.

`GET /sandbox/ledger`, `GET /sandbox/tasks/{id}`, `POST /sandbox/tasks/{id}`, `POST /sandbox/predictions/{id}` and
`POST /sandbox/faults`. An ID is the task's own ID or its external ID, also with a reseller. Errors are
`{"error": text}`.
"""

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any, get_args
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from homing.sandbox import shapes
from homing.sandbox.faults import Faults, UnknownFaultError
from homing.sandbox.ledger import Ledger, delivery_json, task_json
from homing.sandbox.prediction import FINALS
from homing.sandbox.predictions import Predictions
from homing.sandbox.refusals import Refusal
from homing.sandbox.replies import JSON
from homing.sandbox.settings import CallbackShape
from homing.sandbox.signing import Seal
from homing.sandbox.steering import Steering, UnknownTaskError
from homing.sandbox.submission import JsonObject, json_object
from homing.sandbox.task_runner import SteeringError

Arguments = Mapping[str, type | tuple[str, ...]]
ARGUMENTS: Mapping[str, Arguments] = {
    "hold": {},
    "release": {},
    "process": {"notify": bool},
    "finish": {"status": str, "message": str, "notify": bool},
    "callback": {
        "status": str,
        "shape": get_args(CallbackShape),
        "seal": get_args(Seal),
        "webhook_id": str,
        "target": str,
        "changes": dict,
    },
}
"""The actions of `POST /sandbox/tasks/{id}` and what each takes: a JSON type, or one of several values."""

PREDICTION_ARGUMENTS: Mapping[str, Arguments] = {
    "process": {},
    "finish": {"status": FINALS, "output": object, "error": str, "notify": bool},
    "callback": {"target": str, "seal": get_args(Seal), "identity": str, "changes": dict},
}
"""The same for `POST /sandbox/predictions/{id}`."""


class BadRequestError(ValueError):
    """A steering request is invalid. The message says what is valid."""


class UntrustedRequestError(ValueError):
    """A web page may have sent the request. ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Endpoint = Callable[[Request], Awaitable[Response]]


class Control:
    """HTTP for `Steering`, the ledger and the fault rates."""

    def __init__(self, ledger: Ledger, faults: Faults, steering: Steering, predictions: Predictions) -> None:
        self._predictions = predictions
        self._ledger = ledger
        self._faults = faults
        self._steering = steering

    def routes(self) -> list[Route]:
        return [
            Route("/sandbox/ledger", _json_endpoint(self._show), methods=["GET"]),
            Route("/sandbox/faults", _json_endpoint(self._change_faults), methods=["POST"]),
            Route("/sandbox/tasks/{id:path}", _json_endpoint(self._task), methods=["GET"]),
            Route("/sandbox/tasks/{id:path}", _json_endpoint(self._steer), methods=["POST"]),
            Route("/sandbox/predictions/{id}", _json_endpoint(self._steer_prediction), methods=["POST"]),
        ]

    async def _show(self, request: Request) -> JsonObject:  # noqa: ARG002 - an endpoint
        predictions: JsonObject = {
            "predictions": self._predictions.as_json(),
            "prediction_requests": self._predictions.requests,
        }
        return self._ledger.as_json() | predictions | {"faults": self._faults.rates}

    async def _change_faults(self, request: Request) -> JsonObject:
        self._faults.change(json_object(await request.body()))
        return {"faults": self._faults.rates}

    async def _task(self, request: Request) -> JsonObject:
        return task_json(self._steering.task(request.path_params["id"]))

    async def _steer(self, request: Request) -> JsonObject:
        arguments = json_object(await request.body())
        action = _action(arguments, ARGUMENTS)
        any_id = request.path_params["id"]
        done: Any = getattr(self._steering, action)(any_id, **arguments)
        return delivery_json(done) if action == "callback" else task_json(done)

    async def _steer_prediction(self, request: Request) -> JsonObject:
        arguments = json_object(await request.body())
        action = _action(arguments, PREDICTION_ARGUMENTS)
        return self._predictions.steer(request.path_params["id"], action, arguments)


def _action(arguments: JsonObject, actions: Mapping[str, Arguments]) -> str:
    """Remove the action from the arguments, check them, and return it."""
    action = arguments.pop("action", None)
    if not isinstance(action, str) or action not in actions:
        raise BadRequestError(f"action must be one of {', '.join(actions)}")
    _check(action, actions[action], arguments)
    return action


def _check_sender(request: Request) -> None:
    host = request.headers.get("host", "")
    if not _is_own(host):
        raise UntrustedRequestError(421, "the Host header must be an address, localhost or a name without dots")
    if request.headers.get("origin", f"http://{host}").lower() != f"http://{host}".lower():
        raise UntrustedRequestError(403, "a web page of another origin may not control the sandbox")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and media_type != JSON:
        raise UntrustedRequestError(415, f"send the body as {JSON}")


def _is_own(host: str) -> bool:
    """Return whether a Host header is an address or a name without dots, which public DNS cannot contain."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if ":" not in name and "." not in name:
            return bool(name)
        return bool(ip_address(name))
    except ValueError:
        return False


def _check(action: str, allowed: Arguments, arguments: JsonObject) -> None:
    for name, value in arguments.items():
        wanted = allowed.get(name)
        if wanted is None:
            raise BadRequestError(f"{action} takes {', '.join(allowed) or 'no arguments'}, not {name!r:.40}")
        if isinstance(wanted, tuple) and value not in wanted:
            raise BadRequestError(f"{name} must be one of {', '.join(wanted)}")
        if isinstance(wanted, type) and not isinstance(value, wanted):
            raise BadRequestError(f"{name} must be a {wanted.__name__}")


def _json_endpoint(endpoint: Callable[[Request], Awaitable[JsonObject]]) -> Endpoint:
    async def answer(request: Request) -> Response:
        status, body = 200, {}
        try:
            _check_sender(request)
            body = await endpoint(request)
        except UntrustedRequestError as error:
            status, body = error.status, {"error": str(error)}
        except UnknownTaskError as error:
            status, body = 404, {"error": str(error)}
        except SteeringError as error:
            status, body = 409, {"error": str(error)}
        except (BadRequestError, UnknownFaultError, Refusal) as error:
            status, body = 400, {"error": str(error)}
        return Response(shapes.dumps(body), status, media_type=JSON)

    return answer
