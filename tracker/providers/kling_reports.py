"""Reads Kling's callbacks, and its JSON about a task, into a report: both dialects and all products.

Reading never raises.

Documentation: https://kling.ai/document-api, pages "Callback Protocol", "Omni-Image" and the query of each product.

The legacy dialect (``/v1/...``) and the new one (``/tasks``, and callbacks of tasks made on new paths) name the same
facts differently and mix in practice: ``/tasks`` also returns legacy tasks, in the new shape; ``/solutions`` replies
``task_id`` to a create and ``id`` to a query. So each fact is read under every name it has, and both
dialects give the same report.
"""

import json
from collections.abc import Iterable, KeysView, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec

from tracker.errors import Unreadable
from tracker.model.task import Asset, Report, Status
from tracker.model.untrusted import JsonObject, JsonValue, from_milliseconds, identifier, read_object, text
from tracker.providers.web_addresses import URL_LENGTH, web_address

STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {
        "submitted": Status.SUBMITTED,
        "processing": Status.PROCESSING,
        "succeed": Status.SUCCEEDED,  # legacy and /solutions
        "succeeded": Status.SUCCEEDED,  # new standard
        "failed": Status.FAILED,
    }
)

# How gateways write the code of a success, beside the documented 0.
SUCCESS_CODES: Final = frozenset({"0", "200", "success"})

# The names of one fact, legacy first: the first that is there and not null counts.
_TASK_ID: Final = ("task_id", "id")
_STATUS: Final = ("task_status", "status")
_CREATED_AT: Final = ("created_at", "create_time")
_UPDATED_AT: Final = ("updated_at", "update_time")
_ASSET_ID: Final = ("voice_id", "element_id", "id")

# "Result files are cleared after 30 days". A live URL stopped working within 2 s of updated_at + 30 days.
RESULT_LIFETIME: Final = timedelta(days=30)

ASSETS: Final = 100
STATUS_LENGTH: Final = 100
MESSAGE_LENGTH: Final = 2_000
PRICE_LENGTH: Final = 4_096
# A price is measured as ASCII JSON with spaces, which is at most this many times as long as the shortest JSON (DEL).
PRICE_GROWTH: Final = 6
NESTING: Final = 4
HIGHEST_INDEX: Final = 10_000

# The kind and the group of a result. Results with the same pair are counted together.
_Like = tuple[str, str]

# The lists of a legacy task_result, with the kind and group of their results. A series has its own list and group.
_RESULT_LISTS: Final[Mapping[str, _Like]] = MappingProxyType(
    {
        "images": ("image", "single"),
        "series_images": ("image", "series"),
        "videos": ("video", "single"),
        "audios": ("audio", "single"),
        "voices": ("voice", "single"),
        "elements": ("element", "single"),
    }
)
_RESULT_NAMES: Final = _RESULT_LISTS.keys()
_OUTPUT_TYPES: Final = frozenset(
    {"image", "video", "audio", "voice", "element"}
    # Below /solutions.
    | {"product_image", "model_images", "product_video", "subbed_video", "srt", "ass"}
)
_OTHER_TYPE: Final = "file"
# Later requests refer to these by ID, so they are results even without a file.
_USED_BY_ID: Final = frozenset({"voice", "element"})

# The fields with a URL: the group of the URL (None: the group of the list), and the fields with its duration. One entry
# may have several: AI multi-shot has three views, audio has two formats (the new dialect reverses their names).
_URL_FIELDS: Final[Mapping[str, tuple[str | None, tuple[str, ...]]]] = MappingProxyType(
    {
        "url": (None, ("duration",)),
        "trial_url": (None, ("duration",)),
        "url_1": ("view-1", ("duration",)),
        "url_2": ("view-2", ("duration",)),
        "url_3": ("view-3", ("duration",)),
        "url_mp3": ("mp3", ("duration_mp3", "mp3_duration", "duration")),
        "mp3_url": ("mp3", ("duration_mp3", "mp3_duration", "duration")),
        "url_wav": ("wav", ("duration_wav", "wav_duration", "duration")),
        "wav_url": ("wav", ("duration_wav", "wav_duration", "duration")),
    }
)
_URL_NAMES: Final = _URL_FIELDS.keys()
_PRICE_FIELDS: Final = ("final_unit_deduction", "final_balance_deduction", "billing")
_DURATION_TYPES: Final = frozenset({str, int, float})
_encode: Final = msgspec.json.Encoder().encode


def read_callback(body: bytes) -> Report:
    """Read a callback: the bare task (documented), or the same in the reply's envelope (as some receivers report)."""
    try:
        value = read_object(body)
    except Unreadable as error:
        return Report(flaw=error.detail)
    if code := code_of(value):
        return Report(flaw=f"an error with code {code}, not a task")
    # If there is no task inside, read the body itself as a task. A body without a task gets a flaw that says so.
    wrapped = task_of(value) if "data" in value else None
    return read_report(wrapped or value)


def code_of(envelope: JsonObject) -> int | None:
    """Return the code of an envelope: 0 for each known success code, None if the code is no number."""
    code = envelope.get("code")
    if isinstance(code, str):
        return 0 if code.strip().lower() in SUCCESS_CODES else None
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return 0 if code == HTTPStatus.OK else code


def task_of(value: JsonValue) -> JsonObject | None:
    """Return the object of the task: bare (documented), in Kling's envelope, or in a gateway's wrapper around it."""
    found = tasks_in(value)
    return found[-1] if found else None


def tasks_in(value: JsonValue) -> list[JsonObject]:
    """Return every object along the ``data`` fields that has a task ID, the innermost last."""
    found = []
    for _ in range(NESTING):
        if not isinstance(value, dict):
            break
        if _ids(value) != (None, None):
            found.append(value)
        value = value.get("data")
    return found


def read_report(task: JsonObject) -> Report:
    """Read the object of a task. The report has a ``flaw`` if the object has no task ID."""
    task_id, external_id = _ids(task)
    if task_id is None and external_id is None:
        return Report(flaw="it has no task ID")
    provider_status = _first(task, _STATUS)
    provider_status = provider_status[:STATUS_LENGTH] if isinstance(provider_status, str) else None
    # Case and surrounding blanks do not matter.
    status = (
        None
        if provider_status is None
        else STATUSES.get(provider_status) or STATUSES.get(provider_status.strip().lower())
    )
    updated_at = from_milliseconds(_first(task, _UPDATED_AT))
    assets, left_out = _assets(task, updated_at + RESULT_LIFETIME if updated_at else None)
    return Report(
        provider_task_id=task_id,
        external_id=external_id,
        status=status,
        provider_status=provider_status,
        message=_message(task, left_out),
        assets=assets,
        price=_price(task),
        created_at=from_milliseconds(_first(task, _CREATED_AT)),
        updated_at=updated_at,
    )


def _ids(task: JsonObject) -> tuple[str | None, str | None]:
    """Return the provider's ID of a task, and its external ID."""
    info = task.get("task_info")
    external_id = identifier(info.get("external_task_id")) if isinstance(info, dict) else None
    return identifier(_first(task, _TASK_ID)), external_id or identifier(task.get("external_id"))


def _first(fields: JsonObject, names: tuple[str, ...]) -> JsonValue:
    """Return the first field that exists and is not null."""
    for name in names:
        if (found := fields.get(name)) is not None:
            return found
    return None


def _message(task: JsonObject, left_out: Mapping[str, int]) -> str:
    found = task.get("task_status_msg")
    if not found and "code" not in task:
        # Next to a code, the message belongs to the envelope and not to the task.
        found = task.get("message")
    message = text(found, MESSAGE_LENGTH)
    if not left_out:
        return message
    # The message reports dropped results. Otherwise they would look like results that were never made.
    reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f"{message} ({sum(left_out.values())} more result(s) left out: {reasons})".strip()


def _assets(task: JsonObject, expires_at: datetime | None) -> tuple[tuple[Asset, ...], Mapping[str, int]]:
    """Return the bounded results, and the number of dropped results by reason."""
    kept: list[Asset] = []
    counts: dict[_Like, int] = {}
    left_out: dict[str, int] = {}
    result = task.get("task_result")  # empty (live), null or absent before the success
    if isinstance(result, dict):
        for name in _named(_RESULT_NAMES, result):
            entries = result[name]
            for entry in entries if isinstance(entries, list) else ():
                if not _keep(entry, _RESULT_LISTS[name], counts, kept, expires_at):
                    _count(left_out, entry)
    outputs = task.get("outputs")
    for entry in outputs if isinstance(outputs, list) else ():
        if not _keep(entry, _like(entry), counts, kept, expires_at):
            _count(left_out, entry)
    if len(kept) > ASSETS:
        left_out[f"beyond {ASSETS} files"] = len(kept) - ASSETS
    return tuple(kept[:ASSETS]), left_out


def _count(left_out: dict[str, int], entry: JsonValue) -> None:
    """Count an entry that is not a valid result, by reason."""
    urls = [entry[name] for name in _named(_URL_NAMES, entry)] if isinstance(entry, dict) else []
    long = any(isinstance(url, str) and len(url) > URL_LENGTH for url in urls)
    why = f"with a URL beyond {URL_LENGTH} characters" if long else "with no usable URL"
    left_out[why] = left_out.get(why, 0) + 1


def _named(names: KeysView[str], fields: JsonObject) -> Iterable[str]:
    """Return the names that the object has, in the order of ``names``. Nearly always it is one."""
    there = names & fields.keys()
    return [name for name in names if name in there] if len(there) > 1 else there


def _like(output: JsonValue) -> _Like:
    """Return the kind and group of one of ``outputs``. Only a series has a ``group_id``."""
    if not isinstance(output, dict):
        return _OTHER_TYPE, "single"
    output_type = output.get("type")
    kind = output_type if isinstance(output_type, str) and output_type in _OUTPUT_TYPES else _OTHER_TYPE
    return kind, "series" if output.get("group_id") else "single"


def _keep(
    entry: JsonValue, like: _Like, counts: dict[_Like, int], kept: list[Asset], expires_at: datetime | None
) -> bool:
    """Add the results of one entry. Return whether there was one."""
    position = counts.get(like, 0)
    counts[like] = position + 1
    if not isinstance(entry, dict):
        return False
    kind, list_group = like
    found = False
    asset_id = identifier(_first(entry, _ASSET_ID))
    for name in _named(_URL_NAMES, entry):
        if (address := web_address(entry[name])) is not None:
            group, durations = _URL_FIELDS[name]
            asset = Asset(
                kind=kind,
                url=address,
                index=_index(entry.get("index"), position),
                group=group or list_group,
                watermark_url=web_address(entry.get("watermark_url")),
                duration=_duration(_first(entry, durations)),
                provider_asset_id=asset_id,
                expires_at=expires_at,
            )
            kept.append(asset)
            found = True
    if not found and kind in _USED_BY_ID and asset_id is not None:
        kept.append(Asset(kind=kind, url="", index=position, group=list_group, provider_asset_id=asset_id))
        found = True
    return found


def _index(value: JsonValue, position: int) -> int:
    """Return the provider's index. The new dialect has none, and some copies have the placeholder "int"."""
    # The exact type is checked here and below, because a bool is also an int.
    return value if type(value) is int and 0 <= value <= HIGHEST_INDEX else position


def _duration(value: JsonValue) -> str | None:
    """Return the duration in seconds as the provider wrote it: a text in the documentation, possibly fractional."""
    return str(value)[:STATUS_LENGTH] or None if type(value) in _DURATION_TYPES else None


def _price(task: JsonObject) -> dict[str, JsonValue]:
    """Return the price fields unchanged, without empty and without extremely long values."""
    price: dict[str, JsonValue] = {}
    for name in _PRICE_FIELDS:
        if value := task.get(name):
            price[name] = value
    # For a real price, one measurement of all fields together is enough.
    if len(_encode(price)) * PRICE_GROWTH <= PRICE_LENGTH:
        return price
    return {name: value for name, value in price.items() if len(json.dumps(value)) <= PRICE_LENGTH}
