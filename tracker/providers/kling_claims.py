"""What Kling's JSON says about a task, in our words: both dialects and all products, tolerant, never raising.

Documentation: https://kling.ai/document-api, pages "Callback Protocol", "Omni-Image" and the query of each product.

The legacy dialect (``/v1/...``) and the new one (``/tasks``, and callbacks of tasks made on new paths) name the same
facts differently and mix in practice: ``/tasks`` also tells of legacy tasks, in the new shape; ``/solutions`` replies
``task_id`` to a create and ``id`` to a query. So each fact is looked for under every name it has, and a claim comes out
the same whichever dialect told it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tracker.bounds import JsonObject, JsonValue, from_milliseconds, identifier, text
from tracker.models import Asset, Claim, Status

STATUS_WORDS: Final[Mapping[str, Status]] = MappingProxyType(
    {
        "submitted": Status.SUBMITTED,
        "processing": Status.PROCESSING,
        "succeed": Status.SUCCEEDED,  # legacy and /solutions
        "succeeded": Status.SUCCEEDED,  # new standard
        "failed": Status.FAILED,
    }
)

# "Result files are cleared after 30 days"; a live address was seen to end within 2 s of updated_at + 30 days.
RESULT_LIFETIME: Final = timedelta(days=30)

ASSETS: Final = 100
URL_LENGTH: Final = 4096
WORD_LENGTH: Final = 100
MESSAGE_LENGTH: Final = 2_000
PRICE_LENGTH: Final = 4_096
NESTING: Final = 4
HIGHEST_INDEX: Final = 10_000

# The lists of a legacy task_result: what each holds. A series has its own list; the group tells it apart.
_RESULT_LISTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "images": ("image", "single"),
        "series_images": ("image", "series"),
        "videos": ("video", "single"),
        "audios": ("audio", "single"),
        "voices": ("voice", "single"),
        "elements": ("element", "single"),
    }
)
_OUTPUT_TYPES: Final = frozenset({"image", "video", "audio", "voice", "element"})
_OTHER_TYPE: Final = "file"
# What later requests name by its id: a result even without a file.
_USED_BY_ID: Final = frozenset({"voice", "element"})

# The fields that hold an address, and the group they put it in (None: that of the list). One entry may have several:
# AI multi-shot gives three views, audio two formats (whose names the new dialect reverses).
_URL_FIELDS: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        "url": None,
        "trial_url": None,
        "url_1": "view-1",
        "url_2": "view-2",
        "url_3": "view-3",
        "url_mp3": "mp3",
        "mp3_url": "mp3",
        "url_wav": "wav",
        "wav_url": "wav",
    }
)
_DURATION_FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"mp3": ("duration_mp3", "mp3_duration"), "wav": ("duration_wav", "wav_duration")}
)
_PRICE_FIELDS: Final = ("final_unit_deduction", "final_balance_deduction", "billing")
_WEB_ADDRESS: Final = re.compile(r"https?://[^\s/\\][^\s\\]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry of a result list, before its addresses are looked at."""

    kind: str
    group: str
    fields: JsonObject


def task_of(value: JsonValue) -> JsonObject | None:
    """Find the task's own object: bare (as documented), in Kling's envelope, or in a gateway's wrapper round that."""
    found = None
    for _ in range(NESTING):
        if not isinstance(value, dict):
            break
        if _names_task(value):
            found = value
        value = value.get("data")
    return found


def read_claim(task: JsonObject) -> Claim:
    """Read a task's own object; ``flaw`` where it names no task."""
    task_id, external_id = _task_id(task), _external_id(task)
    if task_id is None and external_id is None:
        return Claim(flaw="it names no task")
    word = _first(task, "task_status", "status")
    word = word[:WORD_LENGTH] if isinstance(word, str) else None
    updated_at = from_milliseconds(_first(task, "updated_at", "update_time"))
    entries = [*_legacy_entries(task.get("task_result")), *_new_entries(task.get("outputs"))]
    assets, left_out = _assets(entries, updated_at + RESULT_LIFETIME if updated_at else None)
    return Claim(
        provider_task_id=task_id,
        external_id=external_id,
        status=STATUS_WORDS.get(word) if word is not None else None,
        word=word,
        message=_message(task.get("task_status_msg" if "task_status" in task else "message"), left_out),
        assets=assets,
        price=_price(task),
        created_at=from_milliseconds(_first(task, "created_at", "create_time")),
        updated_at=updated_at,
    )


def _names_task(value: JsonObject) -> bool:
    return _task_id(value) is not None or _external_id(value) is not None


def _task_id(task: JsonObject) -> str | None:
    """Legacy says ``task_id``, the new standard ``id``."""
    return identifier(_first(task, "task_id", "id"))


def _external_id(task: JsonObject) -> str | None:
    info = task.get("task_info")
    told = info.get("external_task_id") if isinstance(info, dict) else None
    return identifier(told) or identifier(task.get("external_id"))


def _first(value: JsonObject, *names: str) -> JsonValue:
    """Give the first field that is there and not null."""
    for name in names:
        if (found := value.get(name)) is not None:
            return found
    return None


def _message(told: JsonValue, left_out: int) -> str:
    message = text(told, MESSAGE_LENGTH)
    if not left_out:
        return message
    # Said where a person looks: a result that we do not keep must not look like one that was never made.
    note = f"({left_out} more result(s) with no usable address, beyond {URL_LENGTH} characters or {ASSETS} files)"
    return f"{message} {note}".strip()


def _legacy_entries(result: JsonValue) -> Iterator[_Entry]:
    """Read ``task_result``; before success it is an empty object (live), null or absent."""
    if not isinstance(result, dict) or not result:
        return
    for name, (kind, group) in _RESULT_LISTS.items():
        listed = result.get(name)
        for entry in listed if isinstance(listed, list) else ():
            yield _Entry(kind=kind, group=group, fields=entry if isinstance(entry, dict) else {})


def _new_entries(outputs: JsonValue) -> Iterator[_Entry]:
    """Read ``outputs``; a series is told by ``group_id``, which single images do not have."""
    for entry in outputs if isinstance(outputs, list) else ():
        fields = entry if isinstance(entry, dict) else {}
        word = fields.get("type")
        kind = word if isinstance(word, str) and word in _OUTPUT_TYPES else _OTHER_TYPE
        yield _Entry(kind=kind, group="series" if fields.get("group_id") else "single", fields=fields)


def _assets(entries: list[_Entry], expires_at: datetime | None) -> tuple[tuple[Asset, ...], int]:
    """Give the bounded results, and how many are left out."""
    if not entries:
        return (), 0
    kept: list[Asset] = []
    left_out = 0
    seen: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        position = seen[entry.kind, entry.group]
        seen[entry.kind, entry.group] += 1
        made = list(_assets_of(entry, position, expires_at))
        kept.extend(made)
        left_out += not made
    return tuple(kept[:ASSETS]), left_out + max(0, len(kept) - ASSETS)


def _assets_of(entry: _Entry, position: int, expires_at: datetime | None) -> Iterator[Asset]:
    fields = entry.fields
    asset_id = identifier(_first(fields, "voice_id", "element_id", "id"))
    addresses = {name: _address(fields.get(name)) for name in _URL_FIELDS}
    if entry.kind in _USED_BY_ID and asset_id is not None and not any(addresses.values()):
        yield Asset(kind=entry.kind, url="", index=position, group=entry.group, provider_asset_id=asset_id)
    for name, address in addresses.items():
        if address is None:
            continue
        group = _URL_FIELDS[name] or entry.group
        yield Asset(
            kind=entry.kind,
            url=address,
            index=_index(fields.get("index"), position),
            group=group,
            watermark_url=_address(fields.get("watermark_url")),
            duration=_duration(_first(fields, *_DURATION_FIELDS.get(group, ()), "duration")),
            provider_asset_id=asset_id,
            expires_at=expires_at,
        )


def _address(value: JsonValue) -> str | None:
    """Give a web address that is fit to keep and to show; a dashboard makes links of them."""
    if not isinstance(value, str) or len(value) > URL_LENGTH or not value.isprintable():
        return None
    return value if _WEB_ADDRESS.fullmatch(value) else None


def _index(value: JsonValue, position: int) -> int:
    """Give the provider's index; the new dialect has none, and some copies write the placeholder "int"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= HIGHEST_INDEX:
        return value
    return position


def _duration(value: JsonValue) -> str | None:
    """Seconds, as written: a string in the documentation, possibly fractional."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)[:WORD_LENGTH] or None


def _price(task: JsonObject) -> dict[str, JsonValue]:
    """Keep the price fields as they are; empty ones tell nothing, and what is absurdly long is no price."""
    told = {name: task[name] for name in _PRICE_FIELDS if task.get(name)}
    return {name: value for name, value in told.items() if len(json.dumps(value)) <= PRICE_LENGTH}
