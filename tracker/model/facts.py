"""The results, price and message of a task, and the stored form of an asset."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tracker.model.task import FINAL, Asset, Status, Task
from tracker.model.untrusted import JsonObject, JsonValue

# The total order. Homing itself infers `rejected` and `expired`. Any verified report shows that a rejected task
# exists, but only a final report replaces `expired`.
RANK: Final[Mapping[Status, int]] = MappingProxyType(
    {
        Status.PENDING: 0,
        Status.REJECTED: 1,
        Status.SUBMITTED: 2,
        Status.PROCESSING: 3,
        Status.EXPIRED: 4,
        Status.FAILED: 5,
        Status.SUCCEEDED: 5,
    }
)
# Statuses that Homing sets, not the provider.
INFERRED: Final = frozenset({Status.REJECTED, Status.EXPIRED})


def assets(task: Task) -> tuple[Asset, ...]:
    """Return the assets. Only a succeeded task has any."""
    fact = task.facts.get("assets")
    if task.status is not Status.SUCCEEDED or fact is None or not isinstance(fact.value, list):
        return ()
    return tuple(asset_from_json(value) for value in fact.value if isinstance(value, dict))


def has_assets(task: Task) -> bool:
    """Return whether the task has assets."""
    fact = task.facts.get("assets")
    return task.status is Status.SUCCEEDED and fact is not None and bool(fact.value)


def output(task: Task) -> JsonValue:
    """Return the free-form output of a succeeded task, or None."""
    fact = task.facts.get("output")
    return fact.value if task.status is Status.SUCCEEDED and fact is not None else None


def price(task: Task) -> JsonObject:
    """Return the price fields, with the provider's names."""
    fact = task.facts.get("price")
    return fact.value if fact is not None and isinstance(fact.value, dict) else {}


def message(task: Task) -> str:
    """Return the provider's message, or Homing's reason if Homing inferred the status."""
    fact = task.facts.get("message")
    text = fact.value if fact is not None and isinstance(fact.value, str) else ""
    if fact is not None and task.status in FINAL:
        # The message of a contradicted final status does not belong to the current one.
        same = fact.precedence.rank == task.precedence.rank and fact.precedence.success == task.precedence.success
        text = text if same else ""
    return (task.reason or text) if task.status in INFERRED else text


def asset_to_json(asset: Asset) -> JsonObject:
    """Return an asset as JSON without its empty fields."""
    value: JsonObject = {"kind": asset.kind, "url": asset.url, "index": asset.index, "group": asset.group}
    for name in ("watermark_url", "duration", "provider_asset_id"):
        if (found := getattr(asset, name)) is not None:
            value[name] = found
    if asset.expires_at is not None:
        value["expires_at"] = asset.expires_at.isoformat()
    return value


def asset_from_json(value: JsonObject) -> Asset:
    """Return the asset of a JSON object of ``asset_to_json``."""
    expires = value.get("expires_at")
    index = value.get("index")
    return Asset(
        kind=str(value.get("kind", "")),
        url=str(value.get("url", "")),
        index=index if isinstance(index, int) else 0,
        group=str(value.get("group", "single")),
        watermark_url=_optional(value.get("watermark_url")),
        duration=_optional(value.get("duration")),
        provider_asset_id=_optional(value.get("provider_asset_id")),
        expires_at=datetime.fromisoformat(expires) if isinstance(expires, str) else None,
    )


def _optional(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def in_conflict(task: Task) -> bool:
    """Return whether contradictory finals wait for an answer of the provider, or for a manual resolution.

    It depends only on the set of reported finals, so the order of arrival does not matter.
    """
    return bool(task.conflict_statuses) and task.status in FINAL and not task.precedence.polled
