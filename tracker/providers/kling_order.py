"""The client's create request for any kind of Kling: the checks, and the parts that Homing stores and forwards.

``kling_bodies`` has the fields. All fields go to the provider unchanged, also unknown ones, except the client's
external ID and callback URL: Homing sends its own.
"""

import base64
import binascii
import hashlib
import json
import re
from typing import Final

import msgspec

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal
from tracker.model.untrusted import ID_LENGTH, JsonObject, JsonValue, identifier
from tracker.providers.base import Order
from tracker.providers.kling_bodies import BODIES, CreateBody
from tracker.providers.kling_bounds import bound_at

EXTERNAL_ID: Final = "external_task_id"
CALLBACK_URL: Final = "callback_url"
MODEL: Final = "model_name"
COUNT: Final = "n"

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
        "video_url",
        "voice_url",
    }
)
# A longer text is stored as digest and size in any field, because an unknown field may contain an image.
MAX_STORED_TEXT: Final = 8_192
# The limit of all stored fields, in characters of JSON. Every event of the task contains them.
MAX_STORED_FIELDS: Final = 32_768
NOT_STORED: Final = "not_shown"

_ERROR: Final = re.compile(r"(?P<why>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_OUT_OF_BOUNDS: Final = ("Expected", "Invalid")
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")


def read_order(kind: str, body: JsonObject, allowed: Allowed = PUBLIC_ONLY) -> Order:
    """Check ``body`` and return its parts. Its callback URL must be public or ``allowed``.

    Raises: InvalidRequest, with the field and its bound.
    """
    shape = BODIES[kind]
    body = _without_empty(body, shape)
    _check(body, shape)
    given = body.get(CALLBACK_URL)
    callback_url = given if isinstance(given, str) else None
    if callback_url is not None and (wrong := callback_refusal(callback_url, allowed)) is not None:
        raise InvalidRequest(f"{CALLBACK_URL} {wrong}")
    forwarded = {name: value for name, value in body.items() if name not in {EXTERNAL_ID, CALLBACK_URL}}
    try:
        return Order(
            kind=kind,
            body=forwarded,
            shown=_stored(forwarded),
            # It does not depend on the order of the fields.
            request_hash=hashlib.sha256(_canonical(forwarded).encode()).hexdigest(),
            # The default model is unknown, because documents and gateways differ.
            model=identifier(body.get(MODEL)) or "",
            external_id=identifier(body.get(EXTERNAL_ID)),
            callback_url=callback_url,
        )
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest("the body is not JSON, or its nesting is too deep") from None


def _without_empty(body: JsonObject, shape: type[CreateBody]) -> JsonObject:
    """Remove empty known fields. Some clients send every field, with an empty text for a missing value.

    JavaScript and PHP clients may write the number 1 as 1.0.
    """
    known = shape.__struct_fields__
    given = {name: value for name, value in body.items() if value != "" or name not in known}
    if isinstance(count := given.get(COUNT), float) and count.is_integer():
        given[COUNT] = int(count)
    return given


def _check(body: JsonObject, shape: type[CreateBody]) -> None:
    """Check the known fields. Raises: InvalidRequest, with the field and its bound."""
    # A null is a missing field.
    given = {name: value for name, value in body.items() if value is not None}
    try:
        msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_explained(str(error), shape)) from None
    if EXTERNAL_ID in given and identifier(given[EXTERNAL_ID]) is None:
        raise InvalidRequest(f"{EXTERNAL_ID} must be a text of 1 to {ID_LENGTH} printable characters")


def _explained(error: str, shape: type[CreateBody]) -> str:
    """Return an error of the decoder with the bound of its field."""
    match = _ERROR.fullmatch(error)
    assert match is not None
    why, path = match["why"], match["path"] or ""
    if missing := _MISSING.fullmatch(why):
        path = f"{path}.{missing[1]}".lstrip(".")
        return f"{path} is required: {bound_at(path, shape)}"
    if why.startswith(_OUT_OF_BOUNDS):
        return f"{path} must be {bound_at(path, shape)}"
    # No field of a group is given. ``kling_bodies`` names the group.
    return f"{path}: {why}" if path else why


def _canonical(body: JsonObject) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _stored(body: JsonObject) -> JsonObject:
    """Return the fields to store. Fields beyond the limit are stored as one digest and size."""
    stored: JsonObject = {}
    others: JsonObject = {}
    left = MAX_STORED_FIELDS
    for name, value in body.items():
        shown = _shown(name, value)
        size = len(_canonical({name: shown}))
        if size <= left:
            stored[name] = shown
            left -= size
        else:
            others[name] = value
    if others:
        stored[NOT_STORED] = _digest(_canonical(others))
    return stored


def _shown(name: str, value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _shown(key, below) for key, below in value.items()}
    if isinstance(value, list):
        return [_shown(name, below) for below in value]
    if not isinstance(value, str):
        return value
    inline = name in MEDIA_FIELDS and value and not value.lower().startswith(("http://", "https://"))
    return _digest(value) if inline or len(value) > MAX_STORED_TEXT else value


def _digest(value: str) -> JsonObject:
    """Return the digest and the size of the content of a Base64 text or ``data:`` URL, or of any other text itself."""
    encoded = value.partition(",")[2] if value[:5].lower() == "data:" else value
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = value.encode("utf-8", "surrogatepass")
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
