"""The client's create request for Replicate: the checks, and the parts that Homing stores and forwards.

Documentation: https://replicate.com/docs/reference/http. The input belongs to the model, so Homing checks only that it
is an object. Unknown fields go to Replicate unchanged. The callback fields are the client's, and Homing sends its own.
"""

import hashlib
import re
from typing import Final

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.base import Order, WrongModel
from tracker.providers.stored_fields import canonical, stored_fields

PREDICTIONS: Final = "predictions"
INPUT: Final = "input"
VERSION: Final = "version"
WEBHOOK: Final = "webhook"
EVENTS: Final = "webhook_events_filter"
# "start: immediately on prediction start", "completed: when it reaches a terminal state". The others are about output
# and logs while it runs.
START: Final = "start"
COMPLETED: Final = "completed"
ALL_EVENTS: Final = (START, "output", "logs", COMPLETED)
OUR_EVENTS: Final = (START, COMPLETED)
# The callback fields, also the deprecated one. Homing replaces them.
CALLBACK_FIELDS: Final = frozenset({WEBHOOK, EVENTS, "webhook_completed"})

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_VERSION: Final = r"[0-9a-f]{64}"
MODEL: Final = re.compile(
    rf"(?P<deployment>deployments/)?(?P<name>(?!deployments/){_NAME}/{_NAME})|({_NAME}/{_NAME}:)?(?P<version>{_VERSION})"
)
MODEL_FORMS: Final = "owner/name, owner/name:version, deployments/owner/name, or a version of 64 hex digits"
NOT_JSON: Final = "the body is not JSON, or its nesting is too deep"


def read_order(body: JsonObject, allowed: Allowed = PUBLIC_ONLY, *, model: str = "") -> Order:
    """Check ``body`` and return its parts. Its callback URL must be public or ``allowed``.

    ``model`` is the one in the path. Without it, ``version`` of the body names the model or the version.

    Raises: InvalidRequest, with the field and its bound. WrongModel, if ``model`` is none.
    """
    version = body.get(VERSION)
    if model and version is not None:
        raise InvalidRequest("version must be absent, because the model names it")
    name = model or version
    if not isinstance(name, str) or MODEL.fullmatch(name) is None:
        error = WrongModel if version is None else InvalidRequest
        raise error(f"{'model' if version is None else VERSION} must be {MODEL_FORMS}")
    if not isinstance(body.get(INPUT), dict):
        raise InvalidRequest("input must be an object with the inputs of the model")
    callback_url = _callback_url(body, allowed)
    events = _events(body.get(EVENTS))
    forwarded = {key: value for key, value in body.items() if key not in CALLBACK_FIELDS | {VERSION}}
    try:
        stored = stored_fields(forwarded)
        digest = hashlib.sha256(f"{PREDICTIONS} {name} {canonical(forwarded)}".encode()).hexdigest()
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(NOT_JSON) from None
    return Order(
        kind=PREDICTIONS,
        body=forwarded,
        shown=stored if events is None else stored | {EVENTS: list(events)},
        request_hash=digest,
        model=name,
        callback_url=callback_url,
    )


def submitted_path(model: str) -> str:
    """Return the path of the create request for a model, a deployment or a version."""
    match = MODEL.fullmatch(model)
    assert match is not None
    if match["version"]:
        return "/v1/predictions"
    return f"/v1/{'deployments' if match['deployment'] else 'models'}/{match['name']}/predictions"


def submitted_body(order: Order, *, callback_url: str | None) -> JsonObject:
    """Return the body for Replicate, with Homing's callback URL and the two events that change a status."""
    match = MODEL.fullmatch(order.model)
    assert match is not None
    body = order.body | ({VERSION: match["version"]} if match["version"] else {})
    return body if callback_url is None else body | {WEBHOOK: callback_url, EVENTS: list(OUR_EVENTS)}


def _callback_url(body: JsonObject, allowed: Allowed) -> str | None:
    given = body.get(WEBHOOK)
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise InvalidRequest(f"{WEBHOOK} must be a URL")
    if (wrong := callback_refusal(given, allowed)) is not None:
        raise InvalidRequest(f"{WEBHOOK} {wrong}")
    return given


def _events(given: JsonValue) -> tuple[str, ...] | None:
    """Return the events that the client wants callbacks about, None for all."""
    if given is None:
        return None
    if not isinstance(given, list) or any(each not in ALL_EVENTS for each in given):
        raise InvalidRequest(f"{EVENTS} must be a list of {', '.join(ALL_EVENTS)}")
    return tuple(name for name in ALL_EVENTS if name in given)
