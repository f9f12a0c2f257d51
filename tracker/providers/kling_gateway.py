"""The gateway's answers to Kling's clients, in Kling's shapes.

Documentation: as in ``kling``; pages "Omni-Image" (legacy) and the task query of the new standard. The IDs are
Homing's: every lookup of the gateway accepts them. A price in the other dialect is translated.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from tracker.model import facts
from tracker.model.task import Asset, Status, Task
from tracker.model.untrusted import JsonObject, JsonValue, milliseconds
from tracker.providers.kling_kinds import KINDS, OMNI_IMAGE, TRY_ON

LEGACY_STATUSES: Final[Mapping[Status, str]] = MappingProxyType(
    {
        Status.PENDING: "submitted",
        Status.SUBMITTED: "submitted",
        Status.PROCESSING: "processing",
        Status.SUCCEEDED: "succeed",
        Status.FAILED: "failed",
        # Kling has no such statuses. The message explains them to its clients.
        Status.REJECTED: "failed",
        Status.EXPIRED: "failed",
    }
)
NEW_STATUSES: Final[Mapping[Status, str]] = MappingProxyType({**LEGACY_STATUSES, Status.SUCCEEDED: "succeeded"})
INFERRED_MESSAGES: Final[Mapping[Status, str]] = MappingProxyType(
    {
        Status.REJECTED: "the provider refused this task",
        Status.EXPIRED: "no result came before the deadline",
    }
)

SERIES: Final = "series"
_LISTS: Final[Mapping[str, str]] = MappingProxyType(
    {"image": "images", "video": "videos", "audio": "audios", "voice": "voices", "element": "elements"}
)
_ID_FIELDS: Final[Mapping[str, str]] = MappingProxyType({"voice": "voice_id", "element": "element_id"})
# Homing does not store these fields of a result. They repeat the request.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"voice": ("voice_name",), "element": ("element_name", "element_description", "reference_type")}
)
# The package that pays for a task, by the first segment of an older path, or by the kind of a newer one.
_PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {"images": "image", "videos": "video", "audio": "audio"}
    # Voices and elements are paid from the package of videos (live).
    | {name: "video" for name, kind in KINDS.items() if kind.results[0] in {"voice", "element"}}
    | {name: "image" if name == TRY_ON else "video" for name, kind in KINDS.items() if not kind.is_legacy}
)
_AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def legacy_envelope(data: JsonValue, *, request_id: str, code: int = 0, message: str = "SUCCEED") -> JsonObject:
    """Return a reply with ``data``. Live replies say ``SUCCEED`` for every task status."""
    return {"code": code, "message": message, "request_id": request_id, "data": data}


def error_envelope(code: int, message: str, *, request_id: str) -> JsonObject:
    """Return a refusal. It has no ``data``, as documented for 1303."""
    return {"code": code, "message": message, "request_id": request_id}


def legacy_created(task: Task) -> JsonObject:
    """Return the ``data`` of the reply to a create request: four documented fields and ``task_info``."""
    return {
        "task_id": task.id,
        # Its client's own external ID, never the one that Homing sent to the provider.
        "task_info": {} if task.external_id is None else {"external_task_id": task.external_id},
        "task_status": LEGACY_STATUSES[task.status],
        "created_at": milliseconds(task.created_at),
        "updated_at": milliseconds(task.updated_at),
    }


def legacy_task(task: Task) -> JsonObject:
    """Return the ``data`` of a single query, or one entry of a list."""
    watermark = task.request.get("watermark_info")
    data = legacy_created(task) | {
        "task_status_msg": _message(task),
        "task_result": _legacy_result(task),
        **legacy_price(facts.price(task)),
    }
    return data | {"watermark_info": watermark} if isinstance(watermark, dict) else data


def created(task: Task) -> JsonObject:
    """Return the ``data`` of the reply to a create request, in the dialect of its path."""
    if _is_legacy(task):
        return legacy_created(task)
    return {
        "task_id" if task.kind == TRY_ON else "id": task.id,
        "status": _new_status(task),
        "create_time": milliseconds(task.created_at),
        "update_time": milliseconds(task.updated_at),
        "external_id": task.external_id or "",
    }


def callback(task: Task) -> JsonObject:
    """Return the body of a callback, in the dialect in which the client submitted the task: the bare task."""
    return legacy_callback(task) if _is_legacy(task) else new_task(task)


def _is_legacy(task: Task) -> bool:
    kind = KINDS.get(task.kind)
    return kind is None or kind.is_legacy


def legacy_callback(task: Task) -> JsonObject:
    """Return the body of a callback: the bare task with the fields of the page "Callback Protocol"."""
    data = legacy_task(task)
    data.pop("watermark_info", None)
    result = data["task_result"]
    assert isinstance(result, dict)
    result.pop("result_type", None)
    return data


def new_task(task: Task) -> JsonObject:
    """Return one entry of ``GET /tasks``."""
    package = _PACKAGES.get(task.kind) or _PACKAGES.get(task.kind.partition("/")[0])
    return {
        "id": task.id,
        "status": _new_status(task),
        "message": _message(task),
        "create_time": milliseconds(task.created_at),
        "update_time": milliseconds(task.updated_at),
        "external_id": task.external_id or "",
        "outputs": [_output(task, entry) for entry in _entries(facts.assets(task))],
        "billing": new_price(facts.price(task), package),
    }


def _new_status(task: Task) -> str:
    # This one product has the word of the older paths.
    return (LEGACY_STATUSES if task.kind == TRY_ON else NEW_STATUSES)[task.status]


def legacy_price(price: Mapping[str, JsonValue]) -> JsonObject:
    """Return a price in the legacy fields. They have the sum of ``billing`` for each kind of payment."""
    if "billing" not in price:
        return {name: value for name, value in price.items() if name.startswith("final_")}
    paid = list(_charges(price["billing"]))
    units = [charge for charge in paid if charge.get("charge_type") == "unit"]
    cash = [charge for charge in paid if charge.get("charge_type") == "cash"]
    billing: JsonObject = {}
    if units:
        billing["final_unit_deduction"] = _total(units, "amount")
    if cash:
        balance: JsonObject = {"quota": _total(cash, "amount"), "list_price": _total(cash, "list_price")}
        billing["final_balance_deduction"] = balance
    return billing


def new_price(price: Mapping[str, JsonValue], package: str | None) -> list[JsonValue]:
    """Return a price as ``billing``. The legacy fields have no currency and no kind of balance, so those are absent."""
    if "billing" in price:
        return list(_charges(price["billing"]))
    billing: list[JsonValue] = []
    if _decimal(units := price.get("final_unit_deduction")):
        charge: JsonObject = {"charge_type": "unit", "amount": str(units)}
        billing.append(charge | ({"package_type": package} if package else {}))
    balance = price.get("final_balance_deduction")
    if isinstance(balance, dict) and _decimal(quota := balance.get("quota")):
        listed = str(balance.get("list_price") or quota)
        billing.append({"charge_type": "cash", "amount": str(quota), "list_price": listed})
    return billing


def _message(task: Task) -> str:
    return facts.message(task) or INFERRED_MESSAGES.get(task.status, "")


def _legacy_result(task: Task) -> JsonObject:
    """Return ``task_result``: an empty object without a result (live), or a list for each kind of result."""
    result: JsonObject = {}
    for entry in _entries(facts.assets(task)):
        first = entry[0]
        name = "series_images" if first.group == SERIES else _LISTS.get(first.kind, f"{first.kind}s")
        listed = result.setdefault(name, [])
        assert isinstance(listed, list)
        listed.append(_legacy_entry(task, entry))
    if result and task.kind == OMNI_IMAGE:
        result["result_type"] = "series" if "series_images" in result else "single"
    return result


def _entries(assets: Iterable[Asset]) -> list[list[Asset]]:
    """Group the files of one entry (two formats of a sound, three views of a subject)."""
    entries: list[list[Asset]] = []
    for asset in assets:
        before = entries[-1] if entries else []
        # The files of one entry have different groups. Two images with the same index have the same group.
        fits = before and _entry_key(before[0]) == _entry_key(asset) and asset.group not in {f.group for f in before}
        if fits:
            before.append(asset)
        else:
            entries.append([asset])
    return entries


def _entry_key(asset: Asset) -> tuple[str, str | None, int, bool]:
    return asset.kind, asset.provider_asset_id, asset.index, asset.group == SERIES


def _legacy_entry(task: Task, files: list[Asset]) -> JsonObject:
    first = files[0]
    entry: JsonObject = {"index": first.index} if first.kind == "image" else {}
    entry |= {name: task.request[name] for name in _NAMES.get(first.kind, ()) if name in task.request}
    if first.provider_asset_id is not None:
        entry[_ID_FIELDS.get(first.kind, "id")] = _legacy_id(first)
    for file in files:
        entry |= _legacy_file(file)
    if first.kind == "element":
        entry["status"] = "succeed"
    return entry | ({"watermark_url": first.watermark_url} if first.watermark_url else {})


def _legacy_file(file: Asset) -> JsonObject:
    if file.group in {"mp3", "wav"}:
        fields: JsonObject = {f"url_{file.group}": file.url}
        return fields | ({f"duration_{file.group}": file.duration} if file.duration else {})
    if file.kind == "voice":
        return {"trial_url": file.url} if file.url else {}
    url: JsonObject = {_url_field(file): file.url} if file.url else {}
    return url | ({"duration": file.duration} if file.duration else {})


def _url_field(file: Asset) -> str:
    """Return the field with the URL. A picture of a subject has one for each of its three views."""
    return "url_" + file.group.removeprefix("view-") if file.group.startswith("view-") else "url"


def _legacy_id(asset: Asset) -> JsonValue:
    """Return the ID of an element as a number, as in the legacy dialect."""
    asset_id = asset.provider_asset_id or ""
    return int(asset_id) if asset.kind == "element" and asset_id.isascii() and asset_id.isdigit() else asset_id


def _output(task: Task, files: list[Asset]) -> JsonObject:
    first = files[0]
    output: JsonObject = {"type": first.kind}
    if first.provider_asset_id is not None:
        output["id"] = first.provider_asset_id
    for file in files:
        audio = file.group if file.group in {"mp3", "wav"} else None
        if file.url:
            output[f"{audio}_url" if audio else _url_field(file)] = file.url
        if file.duration:
            output[f"{audio}_duration" if audio else "duration"] = file.duration
    if first.watermark_url:
        output["watermark_url"] = first.watermark_url
    if first.kind in _NAMES:
        output["status"] = "succeeded"
    # The new dialect has "name" instead of "voice_name".
    output |= {
        name.partition("_")[2]: task.request[name]
        for name in _NAMES.get(first.kind, ())
        if name in task.request and name != "reference_type"
    }
    # All files of a series are one group. The provider's name of the group is not stored.
    return output | ({"group_id": task.id} if first.group == SERIES else {})


def _charges(billing: JsonValue) -> Iterator[JsonObject]:
    return (charge for charge in (billing if isinstance(billing, list) else ()) if isinstance(charge, dict))


def _total(charges: Iterable[JsonObject], name: str) -> str:
    return f"{sum((_decimal(charge.get(name)) for charge in charges), Decimal(0)).normalize():f}"


def _decimal(value: JsonValue) -> Decimal:
    """Read an amount. An invalid one is zero."""
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    return Decimal(text) if _AMOUNT.fullmatch(text) else Decimal(0)
