"""The part of a create request that the row stores: every field, but digests and sizes instead of large contents."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Set as AbstractSet
from typing import Final

from tracker.model.untrusted import JsonObject, JsonValue

# Base64 or a data URL in a field that is not known: no prose has so long a word.
_LONG_CONTENT: Final = re.compile(r"(data:[\w/+.;=-]*,)?[A-Za-z0-9+/_-]{512,}={0,2}")
# A longer text is stored as digest and size in any field, because an unknown field may contain an image.
MAX_STORED_TEXT: Final = 8_192
# The limit of all stored fields, in characters of JSON. Every event of the task contains them.
MAX_STORED_FIELDS: Final = 32_768
NOT_STORED: Final = "not_shown"


def canonical(body: JsonValue) -> str:
    """Return JSON that does not depend on the order of the fields. Raises ValueError, TypeError or RecursionError."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stored_fields(body: JsonObject, media_fields: AbstractSet[str] = frozenset()) -> JsonObject:
    """Return the fields to store. Fields beyond the limit are stored as one digest and size.

    ``media_fields`` hold a URL or the content of a file, at any depth.
    """
    stored: JsonObject = {}
    others: JsonObject = {}
    left = MAX_STORED_FIELDS
    for name, value in body.items():
        shown = _shown(name, value, media_fields)
        size = len(canonical({name: shown}))
        if size <= left:
            stored[name] = shown
            left -= size
        else:
            others[name] = value
    if others:
        stored[NOT_STORED] = _digest(canonical(others))
    return stored


def _shown(name: str, value: JsonValue, media_fields: AbstractSet[str]) -> JsonValue:
    if isinstance(value, dict):
        return {key: _shown(key, below, media_fields) for key, below in value.items()}
    if isinstance(value, list):
        return [_shown(name, below, media_fields) for below in value]
    if not isinstance(value, str):
        return value
    address = value.lstrip()[:8].lower().startswith(("http://", "https://"))
    content = value and not address and (name in media_fields or _LONG_CONTENT.fullmatch(value) is not None)
    return _digest(value) if content or len(value) > MAX_STORED_TEXT else value


def _digest(value: str) -> JsonObject:
    """Return the digest and the size of the content of a Base64 text or ``data:`` URL, or of any other text itself."""
    encoded = value.partition(",")[2] if value[:5].lower() == "data:" else value
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = value.encode("utf-8", "surrogatepass")
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
