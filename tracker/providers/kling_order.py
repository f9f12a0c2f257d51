"""The create request for Kling's omni-image: the checks, and the parts that Homing stores and forwards.

Documentation: https://kling.ai/document-api, page "Omni-Image" (also
https://app.klingai.com/cn/dev/document-api/apiReference/model/OmniImage), and the resellers' older copy of that page.
These documents disagree about models, fields and limits. So this module refuses only values that all of them forbid.
All other fields, also unknown ones, go to the provider unchanged.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeGuard

from tracker.errors import InvalidRequest
from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal
from tracker.model.untrusted import ID_LENGTH, JsonObject, JsonValue, identifier
from tracker.providers.base import Order

EXTERNAL_ID: Final = "external_task_id"
CALLBACK_URL: Final = "callback_url"
MODEL: Final = "model_name"
COUNT: Final = "n"

PROMPT_LENGTH: Final = 5_000  # 2,500 in the official page, 5,000 in the resellers' schema
NEGATIVE_PROMPT_LENGTH: Final = 2_500  # 2,000 in the resellers' schema, 2,500 on related official pages
MAX_IMAGES: Final = 9
ASPECT_RATIOS: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto")

# A longer text is stored as digest and size in any field, because an unknown field may contain an image.
MAX_STORED_TEXT: Final = 8_192
# The limit of all stored fields, in characters of JSON. Every event of the task contains them.
MAX_STORED_FIELDS: Final = 32_768
NOT_STORED: Final = "not_shown"
IMAGE_FIELD: Final = "image"

_Check = Callable[[JsonValue], bool]


def read_order(kind: str, body: JsonObject, allowed: Allowed = PUBLIC_ONLY) -> Order:
    """Check ``body`` and return its parts. Its callback URL must be public or ``allowed``.

    Raises: InvalidRequest, with the field and its bound.
    """
    body = _without_empty(body)
    _check_fields(body)
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


def _without_empty(body: JsonObject) -> JsonObject:
    """Remove empty known fields. Some clients send every field, with an empty text for a missing value."""
    given = {name: value for name, value in body.items() if value != "" or name not in _FIELDS}
    if isinstance(count := given.get(COUNT), float) and _is_count(count):
        given[COUNT] = int(count)
    return given


def _check_fields(body: JsonObject) -> None:
    if body.get("prompt") is None:
        raise InvalidRequest(f"prompt is required: a text of 1 to {PROMPT_LENGTH} characters")
    for name, (fits, bound) in _FIELDS.items():
        value = body.get(name)
        if value is not None and not fits(value):
            raise InvalidRequest(f"{name} must be {bound}")


def _is_prompt(value: JsonValue) -> bool:
    return isinstance(value, str) and 0 < len(value) <= PROMPT_LENGTH


def _is_text(value: JsonValue) -> bool:
    return isinstance(value, str)


def _is_count(value: JsonValue) -> bool:
    """Return whether a value is a whole number in its bounds. JavaScript and PHP clients may write 1 as 1.0."""
    return _is_number(value) and value == int(value) and 1 <= value <= MAX_IMAGES


def _is_share(value: JsonValue) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_external_id(value: JsonValue) -> bool:
    return isinstance(value, str) and identifier(value) is not None


_FIELDS: Final[Mapping[str, tuple[_Check, str]]] = MappingProxyType(
    {
        "prompt": (_is_prompt, f"a text of 1 to {PROMPT_LENGTH} characters"),
        MODEL: (_is_text, "a text"),
        "negative_prompt": (
            lambda value: isinstance(value, str) and len(value) <= NEGATIVE_PROMPT_LENGTH,
            f"a text of at most {NEGATIVE_PROMPT_LENGTH} characters",
        ),
        IMAGE_FIELD: (_is_text, "a text: the URL of an image, or the image in Base64"),
        "image_fidelity": (_is_share, "a number from 0 to 1"),
        COUNT: (_is_count, f"an integer from 1 to {MAX_IMAGES}"),
        "aspect_ratio": (lambda value: value in ASPECT_RATIOS, f"one of {', '.join(ASPECT_RATIOS)}"),
        EXTERNAL_ID: (_is_external_id, f"a text of 1 to {ID_LENGTH} printable characters"),
        CALLBACK_URL: (_is_text, "an https URL"),
    }
)


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
    inline = name == IMAGE_FIELD and value and not value.lower().startswith(("http://", "https://"))
    return _digest(value) if inline or len(value) > MAX_STORED_TEXT else value


def _digest(value: str) -> JsonObject:
    """Return the digest and the size of the content of a Base64 text or ``data:`` URL, or of any other text itself."""
    encoded = value.partition(",")[2] if value[:5].lower() == "data:" else value
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = value.encode("utf-8", "surrogatepass")
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
