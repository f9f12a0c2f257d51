"""The body of a create request, checked against the documented bounds. Unknown fields are ignored.

Documented: the page of each product of the official documentation. Assumed: the texts of the 1201 messages, and that
the model names of the aggregators' older copy of the page (`kling-v1`, …) are accepted here too, as an aggregator
accepts them. Not checked: the pictures, sounds and videos themselves, sessions and IDs of other tasks.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from homing.sandbox.products import GENERATIONS, OMNI_IMAGE, PRODUCTS
from homing.sandbox.refusals import Refusal

JsonObject = dict[str, Any]
Check = Callable[[object], bool]

_SERIES_MODEL = "kling-v3-omni"
_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto")
_VIDEO_RATIOS = ("16:9", "9:16", "1:1")
_PROMPT_LIMIT = 2500
_NEW_PROMPT_LIMIT = 3072
_MOST_DIGITS = 10
_INPUT_LIMIT = 10
_SERIES_DEFAULT = 4
_IMAGE_BYTES = 10 * 1024 * 1024
_ID_LIMIT = 256
_URL_LIMIT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One accepted create request. `slots` is the number of slots that the task takes: of its pictures, or 1."""

    kind: str
    prompt: str
    slots: int
    series: bool
    watermark: bool
    callback_url: str | None
    external_id: str | None
    duration: str = "5"
    parent: str = ""
    name: str = ""


def read(kind: str, raw: bytes, model: str = "") -> Submission:
    """Read the body of a create request, or raise `Refusal` (1200, 1201, 1203). `model` is the one in the path."""
    body, product = json_object(raw), PRODUCTS[kind]
    if product.dialect != "legacy":
        return _read_new(kind, body, model)
    for name, (check, bound) in {**_COMMON, **_FIELDS.get(kind, {})}.items():
        if body.get(name) not in (None, "") and not check(body[name]):
            raise Refusal(1201, f"{name} {bound}")
    _check_required(body, product.required, "")
    if product.required_input:
        inside = body.get("input")
        if not isinstance(inside, dict):
            raise Refusal(1201, "input is an object")
        _check_required(inside, product.required_input, "input.")
    _check_model(kind, body)
    series = kind == OMNI_IMAGE and body.get("result_type") == "series"
    amount = body.get("series_amount") or _SERIES_DEFAULT
    count = (_SERIES_DEFAULT if amount == "auto" else amount) if series else body.get("n") or 1
    external_id = body.get("external_task_id") or None
    return Submission(
        kind=kind,
        prompt=body.get("prompt") or "",
        slots=count if product.counts else 1,
        series=series,
        watermark=bool((body.get("watermark_info") or {}).get("enabled")),
        callback_url=body.get("callback_url") or None,
        external_id=external_id if product.takes_external_id else None,
        duration=str(body.get("duration") or "5"),
        name=str(body.get("voice_name") or body.get("element_name") or ""),
        parent=_parent(body) if product.has_parent else "",
    )


def _check_required(body: JsonObject, groups: Iterable[tuple[str, ...]], where: str) -> None:
    for group in groups:
        if not any(body.get(name) not in (None, "", []) for name in group):
            raise Refusal(1201, f"{where}{' or '.join(group)}: must not be null")


def _read_new(kind: str, body: JsonObject, model: str) -> Submission:
    """Read a body of a newer dialect. Live: unknown names at the top are ignored, `callback_url` among them."""
    product = PRODUCTS[kind]
    if product.models and model not in product.models:
        raise Refusal(1201, f"model is not supported: {model:.80}")
    options, settings = body.get("options") or {}, body.get("settings") or {}
    for name, value in (("options", options), ("settings", settings)):
        if not isinstance(value, dict):
            raise Refusal(1201, f"{name} is an object")
    for name in ("callback_url", "external_task_id"):
        check, bound = _COMMON[name]
        if options.get(name) not in (None, "") and not check(options[name]):
            raise Refusal(1201, f"options.{name} {bound}")
    contents = body.get("contents") or []
    if not isinstance(contents, list) or not all(isinstance(one, dict) and one.get("type") for one in contents):
        raise Refusal(1201, "contents is a list of objects with a type")
    _check_required(body, product.required, "")
    texts = [body.get("prompt"), *(one.get("text") for one in contents)]
    if any(text is not None and not _text(_NEW_PROMPT_LIMIT)(text) for text in texts):
        raise Refusal(1201, f"a prompt is a text of at most {_NEW_PROMPT_LIMIT} characters")
    watermark = options.get("watermark_info") or options.get("watermark") or {}
    return Submission(
        kind=kind,
        prompt=next((text for text in texts if text), ""),
        slots=1,
        series=False,
        watermark=bool(watermark.get("enabled")) if isinstance(watermark, dict) else False,
        callback_url=options.get("callback_url") or None,
        external_id=options.get("external_task_id") or None,
        duration=str(settings.get("duration") or "5"),
    )


def _parent(body: JsonObject) -> str:
    """Return the ID of the video that the task changes, if the request names one."""
    inside = body.get("input")
    return str(body.get("video_id") or (inside.get("video_id") if isinstance(inside, dict) else "") or "")


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
    models = PRODUCTS[kind].models
    model = body.get("model_name")
    if model and models and model not in models:
        raise Refusal(1203, f"model_name {model!r:.80} does not exist. Choose from {', '.join(models)}")
    if kind != OMNI_IMAGE:
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


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _seconds(low: int, high: int) -> Check:
    """Return a check for a whole number as text. Live: a number passes too."""
    return lambda value: len(str(value)) < _MOST_DIGITS and str(value).isdecimal() and low <= int(str(value)) <= high


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


_COMMON: Mapping[str, tuple[Check, str]] = {
    "model_name": (_text(_ID_LIMIT), "is a text"),
    "negative_prompt": (_text(_PROMPT_LIMIT), f"is a text of at most {_PROMPT_LIMIT} characters"),
    "prompt": (_text(_PROMPT_LIMIT), f"is a text of at most {_PROMPT_LIMIT} characters"),
    "n": (_integer(1, 9), "is an integer from 1 to 9"),
    "aspect_ratio": (_one_of(*_RATIOS), f"is one of {', '.join(_RATIOS)}"),
    "watermark_info": (_switch, "is an object with a boolean `enabled`"),
    "callback_url": (_web_url, f"is an http or https URL of at most {_URL_LIMIT} characters"),
    "external_task_id": (_text(_ID_LIMIT), f"is a text of at most {_ID_LIMIT} characters"),
}
_IMAGES = (_entries("image", _image), "is a list of {image}, each at most 10 MB")
_ELEMENTS = (_entries("element_id", _integer(0, 2**63 - 1)), "is a list of {element_id}")
_DURATION = (_seconds(3, 15), "is a whole number of seconds from 3 to 15, as text")
_VIDEO = {
    "aspect_ratio": (_one_of(*_VIDEO_RATIOS), f"is one of {', '.join(_VIDEO_RATIOS)}"),
    "cfg_scale": (_number(0, 1), "is a number from 0 to 1"),
    "mode": (_one_of("std", "pro", "4k"), "is std, pro or 4k"),
    "duration": _DURATION,
}
_EXPANSION = (_number(0, 2), "is a number from 0 to 2")
_SOUND_TEXT = (_text(200), "is a text of at most 200 characters")
_FIELDS: Mapping[str, Mapping[str, tuple[Check, str]]] = {
    OMNI_IMAGE: {
        "resolution": (_one_of("1k", "2k", "4k"), "is one of 1k, 2k, 4k"),
        "result_type": (_one_of("single", "series"), "is single or series"),
        "series_amount": (_series_amount, "is an integer from 2 to 9, or auto"),
        "image_list": _IMAGES,
        "element_list": _ELEMENTS,
    },
    GENERATIONS: {"resolution": (_one_of("1k", "2k"), "is 1k or 2k"), "element_list": _ELEMENTS},
    "images/editing/expand": {f"{side}_expansion_ratio": _EXPANSION for side in ("up", "down", "left", "right")},
    "videos/text2video": _VIDEO,
    "videos/image2video": _VIDEO | {"image": (_image, "is a picture of at most 10 MB")},
    "videos/omni-video": _VIDEO | {"image_list": (_entries("image_url", _image), "is a list of {image_url}")},
    "videos/multi-image2video": _VIDEO | {"image_list": _IMAGES},
    "videos/multi-elements": {"duration": _DURATION},
    "audio/text-to-audio": {"prompt": _SOUND_TEXT, "duration": (_number(3, 10), "is a number from 3 to 10")},
    "audio/video-to-audio": {"sound_effect_prompt": _SOUND_TEXT, "bgm_prompt": _SOUND_TEXT},
    "general/custom-voices": {"voice_name": (_text(20), "is a text of at most 20 characters")},
    "general/advanced-custom-elements": {
        "element_name": (_text(20), "is a text of at most 20 characters"),
        "element_description": (_text(100), "is a text of at most 100 characters"),
    },
}
