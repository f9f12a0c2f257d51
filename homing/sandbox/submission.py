"""The body of a create request, checked against the documented bounds. Unknown fields are ignored.

Documented: "Omni-Image" and "Image Generation" pages of the official documentation. Assumed: the texts of the 1201
messages, and that the model names of the aggregators' older copy of the page (`kling-v1`, …) are accepted here too,
as an aggregator accepts them. Not checked: the pictures themselves (sides, ratio, format).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from homing.sandbox.refusals import Refusal

JsonObject = dict[str, Any]
Check = Callable[[object], bool]

OMNI_IMAGE = "omni-image"
GENERATIONS = "generations"
KINDS = (OMNI_IMAGE, GENERATIONS)

_SERIES_MODEL = "kling-v3-omni"
_OLD_MODELS = ("kling-v1", "kling-v1-5", "kling-v2")
_MODELS: Mapping[str, tuple[str, ...]] = {
    OMNI_IMAGE: ("kling-image-o1", _SERIES_MODEL, *_OLD_MODELS),
    GENERATIONS: ("kling-v3", "kling-v2-1", "kling-v2-new", *_OLD_MODELS),
}
_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto")
_PROMPT_LIMIT = 2500
_INPUT_LIMIT = 10
_SERIES_DEFAULT = 4
_IMAGE_BYTES = 10 * 1024 * 1024
_ID_LIMIT = 256
_URL_LIMIT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One accepted create request. `pictures` is the number of images, and of the slots that the task takes."""

    kind: str
    prompt: str
    pictures: int
    series: bool
    watermark: bool
    callback_url: str | None
    external_id: str | None


def read(kind: str, raw: bytes) -> Submission:
    """Read the body of a create request, or raise `Refusal` (1200, 1201, 1203)."""
    body = json_object(raw)
    for name, (check, bound) in _FIELDS[kind].items():
        if body.get(name) is not None and not check(body[name]):
            raise Refusal(1201, f"{name} {bound}")
    if not body.get("prompt"):
        raise Refusal(1201, "prompt is required")
    _check_model(kind, body)
    series = kind == OMNI_IMAGE and body.get("result_type") == "series"
    amount = body.get("series_amount") or _SERIES_DEFAULT
    return Submission(
        kind=kind,
        prompt=body["prompt"],
        pictures=(_SERIES_DEFAULT if amount == "auto" else amount) if series else body.get("n") or 1,
        series=series,
        watermark=bool((body.get("watermark_info") or {}).get("enabled")),
        callback_url=body.get("callback_url") or None,
        external_id=body.get("external_task_id") or None,
    )


def json_object(raw: bytes) -> JsonObject:
    """Return the body as an object, or raise `Refusal` (1200)."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(1200, "the request body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal(1200, "the request body is not a JSON object")
    return body


def _check_model(kind: str, body: JsonObject) -> None:
    model = body.get("model_name") or _MODELS[kind][0]
    if model not in _MODELS[kind]:
        raise Refusal(1203, f"model_name {model!r:.80} does not exist. Choose from {', '.join(_MODELS[kind])}")
    if kind == GENERATIONS:
        return
    if model != _SERIES_MODEL and body.get("result_type") == "series":
        raise Refusal(1201, f"result_type series is only for {_SERIES_MODEL}")
    if model != _SERIES_MODEL and body.get("resolution") == "4k":
        raise Refusal(1201, f"resolution 4k is only for {_SERIES_MODEL}")
    if len(body.get("image_list") or ()) + len(body.get("element_list") or ()) > _INPUT_LIMIT:
        raise Refusal(1201, f"image_list and element_list have at most {_INPUT_LIMIT} entries together")


def _text(limit: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= limit


def _one_of(*choices: str) -> Check:
    return lambda value: value in choices


def _integer(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _series_amount(value: object) -> bool:
    return value == "auto" or _integer(2, 9)(value)


def _entries(key: str, check: Check) -> Check:
    def checked(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(e, dict) and check(e.get(key)) for e in value)

    return checked


def _image(value: object) -> bool:
    return isinstance(value, str) and bool(value) and len(value) * 3 // 4 <= _IMAGE_BYTES


def _web_url(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _URL_LIMIT:
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return value == "" or (parts.scheme in {"http", "https"} and bool(parts.hostname))


def _switch(value: object) -> bool:
    return isinstance(value, dict) and isinstance(cast("JsonObject", value).get("enabled", False), bool)


_COMMON: dict[str, tuple[Check, str]] = {
    "model_name": (_text(_ID_LIMIT), "is a text"),
    "prompt": (_text(_PROMPT_LIMIT), f"is a text of at most {_PROMPT_LIMIT} characters"),
    "n": (_integer(1, 9), "is an integer from 1 to 9"),
    "aspect_ratio": (_one_of(*_RATIOS), f"is one of {', '.join(_RATIOS)}"),
    "watermark_info": (_switch, "is an object with a boolean `enabled`"),
    "callback_url": (_web_url, f"is an http or https URL of at most {_URL_LIMIT} characters"),
    "external_task_id": (_text(_ID_LIMIT), f"is a text of at most {_ID_LIMIT} characters"),
}
_FIELDS: Mapping[str, Mapping[str, tuple[Check, str]]] = {
    OMNI_IMAGE: _COMMON
    | {
        "resolution": (_one_of("1k", "2k", "4k"), "is one of 1k, 2k, 4k"),
        "result_type": (_one_of("single", "series"), "is single or series"),
        "series_amount": (_series_amount, "is an integer from 2 to 9, or auto"),
        "image_list": (_entries("image", _image), "is a list of {image}, each at most 10 MB"),
        "element_list": (_entries("element_id", _integer(0, 2**63 - 1)), "is a list of {element_id}"),
    },
    GENERATIONS: _COMMON
    | {
        "negative_prompt": (_text(_PROMPT_LIMIT), f"is a text of at most {_PROMPT_LIMIT} characters"),
        "resolution": (_one_of("1k", "2k"), "is 1k or 2k"),
    },
}
