"""The client's create request for any kind of Kling: the checks, and the parts that Homing stores and forwards.

``kling_bodies`` has the fields. All fields go to the provider unchanged, also unknown ones, except the client's
external ID and callback URL: Homing sends its own. On the older paths they are at the top of the body, in the newer
dialects within ``options``. A ``callback_url`` in the wrong place is an unknown field, because the provider ignores it.
"""

import hashlib
import re
from typing import Any, Final

import msgspec

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal
from tracker.model.untrusted import ID_LENGTH, JsonObject, JsonValue, identifier
from tracker.providers.base import Order, WrongModel
from tracker.providers.kling_bodies import BODIES
from tracker.providers.kling_bounds import bound_at
from tracker.providers.kling_fields import GROUP_MISSING, Part
from tracker.providers.kling_kinds import KINDS, OMNI_IMAGE
from tracker.providers.stored_fields import canonical, stored_fields

EXTERNAL_ID: Final = "external_task_id"
CALLBACK_URL: Final = "callback_url"
MODEL: Final = "model_name"
COUNT: Final = "n"
# The newer dialects have the external ID and the callback URL in this object.
OPTIONS: Final = "options"
# The provider takes names of both dialects here, and new ones each quarter.
MODEL_IN_PATH: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

# The fields with a picture, a sound or a video, in any kind and at any depth: a URL, or the content in Base64. The ones
# that are documented as a URL are here too, because a client may still send content.
MEDIA_FIELDS: Final = frozenset(
    {
        "audio_file",
        "audio_url",
        "cloth_image",
        "element_frontal_image",
        "frontal_image",
        "human_image",
        "image",
        "image_tail",
        "image_url",
        "images",
        "mask",
        "scene_image",
        "sound_file",
        "static_mask",
        "style_image",
        "subject_image",
        "url",
        "video_url",
        "voice_url",
    }
)
NOT_JSON: Final = "the body is not JSON, or its nesting is too deep"

# The decoder may quote a value of the client before the path, so the last path counts.
_ERROR: Final = re.compile(r"(?P<why>.*?)(?: - at `\$\.?(?P<path>[^`$]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")


def read_order(kind: str, body: JsonObject, allowed: Allowed = PUBLIC_ONLY, *, model: str = "") -> Order:
    """Check ``body`` and return its parts. Its callback URL must be public or ``allowed``.

    ``model`` is the one in the path, for kinds that have it there.

    Raises: InvalidRequest, with the field and its bound. WrongModel, if ``model`` does not fit the kind.
    """
    dialect, shape = KINDS[kind].dialect, BODIES[kind]
    if dialect == "new" and MODEL_IN_PATH.fullmatch(model) is None:
        raise WrongModel(f"model must be a name in the path of {kind}, such as kling-3.0: 1 to 64 of a-z 0-9 . -")
    if dialect != "new" and model:
        where = f"Send it in the body, as {MODEL}" if dialect == "legacy" else "Leave it out"
        raise WrongModel(f"model is not in the path of {kind}. {where}")
    body = without_empty(body, shape)
    check_body(body, shape)
    options = body if dialect == "legacy" else _options(body)
    given = options.get(CALLBACK_URL)
    callback_url = given if isinstance(given, str) and given else None
    own_id = options.get(EXTERNAL_ID) or None
    if own_id is not None and identifier(own_id) is None:
        raise InvalidRequest(f"{EXTERNAL_ID} must be a text of 1 to {ID_LENGTH} printable characters")
    if callback_url is not None and (wrong := callback_refusal(callback_url, allowed)) is not None:
        raise InvalidRequest(f"{CALLBACK_URL} {wrong}")
    kept = {name: value for name, value in options.items() if name not in {EXTERNAL_ID, CALLBACK_URL}}
    forwarded = kept if dialect == "legacy" else body | {OPTIONS: kept}
    try:
        return Order(
            kind=kind,
            body=forwarded,
            shown=stored_fields(forwarded, MEDIA_FIELDS),
            # It does not depend on the order of the fields. Equal bodies of two products are two requests. The first
            # product has no name here, because its rows are older than the others.
            request_hash=hashlib.sha256((_product(kind, model) + canonical(forwarded)).encode()).hexdigest(),
            # The default model is unknown, because documents and gateways differ.
            model=model or identifier(body.get(MODEL)) or "",
            external_id=identifier(own_id),
            callback_url=callback_url,
        )
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(NOT_JSON) from None


def _product(kind: str, model: str) -> str:
    return "" if kind == OMNI_IMAGE else f"{kind} {model} "


def submitted_body(order: Order, *, external_id: str, callback_url: str | None) -> JsonObject:
    """Return the body for the provider, with Homing's external ID and callback URL where the dialect has them."""
    ours: JsonObject = {EXTERNAL_ID: external_id}
    if callback_url is not None:
        ours[CALLBACK_URL] = callback_url
    if KINDS[order.kind].is_legacy:
        return order.body | ours
    return order.body | {OPTIONS: _options(order.body) | ours}


def _options(body: JsonObject) -> JsonObject:
    options = body.get(OPTIONS)
    return options if isinstance(options, dict) else {}


def without_empty(body: JsonObject, shape: type[Part]) -> JsonObject:
    """Remove empty known fields. Some clients send every field, with an empty text for a missing value.

    JavaScript and PHP clients may write the number 1 as 1.0.
    """
    known = shape.__struct_fields__
    given = {name: value for name, value in body.items() if value != "" or name not in known}
    if isinstance(count := given.get(COUNT), float) and count.is_integer():
        given[COUNT] = int(count)
    return given


def check_body(body: JsonObject, shape: type[Part]) -> None:
    """Check the known fields. Raises: InvalidRequest, with the field and its bound."""
    try:
        msgspec.convert(_given(body), shape)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_explained(str(error), shape)) from None
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(NOT_JSON) from None


def _given(value: JsonValue) -> Any:  # noqa: ANN401 - the part of a JSON document that is checked
    """Return a value without its missing parts: null and an empty text.

    JavaScript and PHP clients may write the number 1 as 1.0.
    """
    if isinstance(value, dict):
        below = {name: _given(each) for name, each in value.items()}
        return {name: each for name, each in below.items() if each is not None}
    if isinstance(value, list):
        return [each for each in map(_given, value) if each is not None]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value


def _explained(error: str, shape: type[Part]) -> str:
    """Return an error of the decoder with the bound of its field."""
    match = _ERROR.fullmatch(error)
    assert match is not None
    why, path = match["why"], match["path"] or ""
    if missing := _MISSING.fullmatch(why):
        path = f"{path}.{missing[1]}".lstrip(".")
        return f"{path} is required: {bound_at(path, shape)}"
    if why.endswith(GROUP_MISSING):
        return f"{path}: {why}" if path else why
    return f"{path} must be {bound_at(path, shape)}"
