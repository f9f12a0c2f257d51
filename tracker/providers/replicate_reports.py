"""Reads a prediction of Replicate into a report: the body of a callback, of a query, and of an entry in a list.

Reading never raises.

Documentation: https://replicate.com/docs/reference/http (a prediction), and the page "Receive webhooks": "the request
body is a prediction object". Observed in clients: ``webhook`` repeats the callback URL of the create request. The
documented examples do not show it, so it may be absent.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from tracker.errors import Unreadable
from tracker.model.task import Asset, Report, Status
from tracker.model.untrusted import (
    FIRST_YEAR,
    LAST_YEAR,
    JsonObject,
    JsonValue,
    identifier,
    read_object,
    text,
)
from tracker.providers.web_addresses import URL_LENGTH, web_address

STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {
        "starting": Status.SUBMITTED,
        "processing": Status.PROCESSING,
        "succeeded": Status.SUCCEEDED,
        "failed": Status.FAILED,
        "canceled": Status.FAILED,
        # Its own deadline ended it before it started. It is not charged.
        "aborted": Status.FAILED,
    }
)
# "Input, output and logs of predictions made by the API are deleted after an hour."
RESULT_LIFETIME: Final = timedelta(hours=1)

ASSETS: Final = 100
MESSAGE_LENGTH: Final = 2_000
STATUS_LENGTH: Final = 100
# In characters of JSON. Every event of the task contains the output.
OUTPUT_LENGTH: Final = 32_768
METRICS_LENGTH: Final = 4_096
TIME_LENGTH: Final = 40

_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".svg", ".bmp", ".tiff"), "image")
    | dict.fromkeys((".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v"), "video")
    | dict.fromkeys((".mp3", ".wav", ".ogg", ".flac", ".m4a", ".aac", ".opus"), "audio")
)
_OTHER_KIND: Final = "file"


def read_callback(body: bytes) -> Report:
    """Read a callback: the bare prediction."""
    try:
        return read_report(read_object(body))
    except Unreadable as error:
        return Report(flaw=error.detail)


def read_report(prediction: JsonObject) -> Report:
    """Read a prediction. The report has a ``flaw`` if it has no ID."""
    task_id = identifier(prediction.get("id"))
    if task_id is None:
        return Report(flaw="it has no prediction ID")
    word = prediction.get("status")
    provider_status = word[:STATUS_LENGTH] if isinstance(word, str) else None
    status = None if provider_status is None else STATUSES.get(provider_status)
    completed_at = moment(prediction.get("completed_at"))
    left_out: list[str] = []
    assets: tuple[Asset, ...] = ()
    output: JsonValue = None
    if status is Status.SUCCEEDED:
        output = prediction.get("output")
        assets = _assets(output, completed_at + RESULT_LIFETIME if completed_at else None, left_out)
        output = _bounded_output(output, left_out)
    message = _message(prediction, provider_status, status)
    return Report(
        provider_task_id=task_id,
        status=status,
        provider_status=provider_status,
        message="; ".join((*([message] if message else []), *left_out))[:MESSAGE_LENGTH],
        assets=assets,
        output=output,
        price=_measures(prediction.get("metrics")),
        created_at=moment(prediction.get("created_at")),
        updated_at=completed_at or moment(prediction.get("started_at")) or moment(prediction.get("created_at")),
    )


def callback_url_of(prediction: JsonObject) -> str:
    """Return where Replicate sends the callbacks of a prediction, empty if it does not say."""
    return web_address(prediction.get("webhook")) or ""


def moment(value: JsonValue) -> datetime | None:
    """Return an aware UTC time for an ISO 8601 text, or None outside of sane years."""
    if not isinstance(value, str) or len(value) > TIME_LENGTH:
        return None
    try:
        at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if FIRST_YEAR <= at.year <= LAST_YEAR else None


def _message(prediction: JsonObject, word: str | None, status: Status | None) -> str:
    """Return the error. Without one, a failure has its own word: "canceled" and "aborted" are no "failed"."""
    error = prediction.get("error")
    if error and not isinstance(error, str):
        error = json.dumps(error, ensure_ascii=False)
    return text(error, MESSAGE_LENGTH) or (word or "" if status is Status.FAILED and word != "failed" else "")


def _assets(output: JsonValue, expires_at: datetime | None, left_out: list[str]) -> tuple[Asset, ...]:
    """Return a file for each URL in the output, at any depth, in its order."""
    found: dict[str, None] = {}
    long = 0
    for value in _texts(output):
        if (address := web_address(value)) is not None:
            found[address] = None
        elif len(value) > URL_LENGTH and value[:8].lower().startswith(("http://", "https://")):
            long += 1
    if long:
        left_out.append(f"{long} result(s) left out with a URL beyond {URL_LENGTH} characters")
    if len(found) > ASSETS:
        left_out.append(f"{len(found) - ASSETS} result(s) left out beyond {ASSETS} files")
    return tuple(
        Asset(kind=_kind(url), url=url, index=index, expires_at=expires_at)
        for index, url in enumerate(list(found)[:ASSETS])
    )


def _texts(value: JsonValue) -> Iterator[str]:
    """Yield the texts of a JSON value in order. Its depth is bounded by ``untrusted.DEPTH``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _texts(below)


def _kind(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:
        return _OTHER_KIND
    return _KINDS.get(PurePosixPath(path).suffix.lower(), _OTHER_KIND)


def _bounded_output(output: JsonValue, left_out: list[str]) -> JsonValue:
    if len(json.dumps(output)) <= OUTPUT_LENGTH:
        return output
    left_out.append(f"the output is left out, because it is longer than {OUTPUT_LENGTH} characters")
    return None


def _measures(metrics: JsonValue) -> dict[str, JsonValue]:
    """Return the measures that the price depends on, such as ``predict_time`` in seconds. No report has an amount."""
    if not isinstance(metrics, dict) or not metrics or len(json.dumps(metrics)) > METRICS_LENGTH:
        return {}
    return {"metrics": metrics}
