"""The bodies of the provider: its reply envelope, and a task in the legacy and in the new shape.

Documented: the field names of both shapes, in queries and callbacks (official "Callback Protocol", "Omni-Image" and
task query pages), the fields of each type of result. Live: the message `SUCCEED`, and the empty objects `task_info` and
`task_result` while a task is not finished (in queries; callbacks are documented with `task_info`). Assumed: a legacy
callback has every type of result in the same place as a query; the new shape of a picture with three views.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, assert_never

from homing.sandbox.products import OMNI_IMAGE, TRY_ON, Entry
from homing.sandbox.settings import CallbackShape
from homing.sandbox.submission import JsonObject
from homing.sandbox.task import SUCCEED, State, Task

_NEW_STATUSES = {SUCCEED: "succeeded"}
_PRICE_OF_UNIT = 0.14  # USD at list price, as others computed it
_LISTS = {"image": "images", "video": "videos", "audio": "audios", "voice": "voices", "element": "elements"}
# Live: tasks of voices and elements are paid from the video pack.
_PACKAGES = {"images": "image", "audio": "audio"}
_SOUND = "0.3"
_FIRST_RESULT_ID, _MOST_ENTRIES = 845_000_000_000_000_000, 100


def dumps(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def envelope(data: object, request_id: str) -> JsonObject:
    return {"code": 0, "message": "SUCCEED", "request_id": request_id, "data": data}


def refusal(code: int, message: str, request_id: str) -> JsonObject:
    """Return the body of an error. It has no `data`, as documented for 1303."""
    return {"code": code, "message": message, "request_id": request_id}


def created(task: Task, *, reseller: bool) -> JsonObject:
    """Return the `data` of the reply to a create request. A reseller's has no `task_info`, as documented.

    Virtual try-on has `task_id` and `succeed`. The other products of the newer dialects have `id` and `succeeded`.
    """
    if task.product.dialect != "legacy":
        return {
            "task_id" if task.submission.kind == TRY_ON else "id": task.id,
            "status": task.states[0].status,
            "create_time": task.created_at,
            "update_time": task.states[0].updated_at,
            "external_id": "" if reseller else task.external_id or "",
        }
    data: JsonObject = {
        "task_id": task.id,
        "task_status": task.states[0].status,
        "created_at": task.created_at,
        "updated_at": task.states[0].updated_at,
    }
    return data if reseller else data | {"task_info": _task_info(task, reseller=False)}


def legacy_task(task: Task, *, reseller: bool) -> JsonObject:
    """Return a task as in the `data` of a single query and in a list."""
    data = _legacy(task, task.state, reseller=reseller)
    data["watermark_info"] = {"enabled": task.submission.watermark}
    if not task.state.final:
        data["task_info"] = {}
    elif data["task_result"] and task.submission.kind == OMNI_IMAGE:
        data["task_result"]["result_type"] = "series" if task.submission.series else "single"
    return data


def new_task(task: Task, state: State, *, reseller: bool = False) -> JsonObject:
    """Return a task in the shape of `/tasks` and of the new callbacks."""
    body: JsonObject = {
        "id": task.id,
        "status": state.status if task.submission.kind == TRY_ON else _NEW_STATUSES.get(state.status, state.status),
        "message": state.message,
        "create_time": task.created_at,
        "update_time": state.updated_at,
        "external_id": "" if reseller else task.external_id or "",
        "outputs": [_output(task, number, entry, urls) for number, entry, urls in _entries(task, state)],
        "billing": [],
    }
    if state.status == SUCCEED:
        package = "image" if task.submission.kind == TRY_ON else _PACKAGES.get(task.submission.kind.partition("/")[0])
        package = package or "video"
        body["billing"] = [{"charge_type": "unit", "package_type": package, "amount": _amount(task.units)}]
    return body


def callback(task: Task, state: State, shape: CallbackShape, *, reseller: bool) -> JsonObject:
    """Return the body of a callback. The enveloped shape is only known from receivers that accept it.

    A task of a newer dialect has the new shape, whatever the setting.
    """
    match "new" if task.product.dialect != "legacy" else shape:
        case "new":
            return new_task(task, state, reseller=reseller)
        case "legacy":
            return _legacy(task, state, reseller=reseller)
        case "enveloped":
            return envelope(_legacy(task, state, reseller=reseller), f"callback-{task.id}-{state.updated_at}")
        case _:
            assert_never(shape)


def _legacy(task: Task, state: State, *, reseller: bool) -> JsonObject:
    data: JsonObject = {
        "task_id": task.id,
        "task_status": state.status,
        "task_status_msg": state.message,
        "task_info": _task_info(task, reseller=reseller),
        "task_result": _legacy_result(task, state),
        "created_at": task.created_at,
        "updated_at": state.updated_at,
    }
    if state.final:
        data |= _price(task.units if state.status == SUCCEED else 0)
    return data


def _task_info(task: Task, *, reseller: bool) -> JsonObject:
    info: JsonObject = {} if reseller or task.external_id is None else {"external_task_id": task.external_id}
    # Documented: the query of `advanced-lip-sync` does not have the external ID. `lip-sync` takes none.
    if not task.product.looked_up and task.product.has_parent:
        info = {}
    if task.product.has_parent:
        info["parent_video"] = {"id": task.submission.parent, "url": "", "duration": task.submission.duration}
    return info


def _entries(task: Task, state: State) -> Iterator[tuple[int, Entry, list[str]]]:
    """Return the number, the entry and the URLs of each entry that the state has. A false result may have only some."""
    urls = iter(state.results)
    for number, entry in enumerate(task.entries):
        own = list(islice(urls, len(entry.files)))
        if not own:
            return
        yield number, entry, own


def _legacy_result(task: Task, state: State) -> JsonObject:
    result: JsonObject = {}
    for number, entry, urls in _entries(task, state):
        name = "series_images" if task.submission.series else _LISTS[entry.type]
        result.setdefault(name, []).append(_legacy_entry(task, number, entry, urls))
    return result


def _legacy_entry(task: Task, number: int, entry: Entry, urls: list[str]) -> JsonObject:
    named = {field: url for (field, _), url in zip(entry.files, urls, strict=False)}
    identity = result_id(task, number)
    match entry.type:
        case "image":
            return {"index": number} | named | _watermark(task, urls)
        case "video":
            return {"id": identity} | named | _watermark(task, urls) | _duration(task)
        case "audio":
            return {"id": identity, **named, "duration_mp3": _SOUND, "duration_wav": _SOUND}
        case "voice":
            return {"voice_id": identity, "voice_name": task.submission.name, "owned_by": task.account, **named}
        case _:
            return {
                "element_id": int(identity),
                "element_name": task.submission.name,
                "element_image_list": named,
                "owned_by": task.account,
                "status": SUCCEED,
            }


def _output(task: Task, number: int, entry: Entry, urls: list[str]) -> JsonObject:
    named = {field: url for (field, _), url in zip(entry.files, urls, strict=False)}
    output: JsonObject = {"type": entry.type}
    identity = result_id(task, number)
    match entry.type:
        case "image":
            output |= named | _watermark(task, urls)
            return output | {"group_id": f"group-{task.id}"} if task.submission.series else output
        case "video":
            return output | {"id": identity} | named | _watermark(task, urls) | _duration(task)
        case "audio":
            turned = {"_".join(reversed(field.split("_"))): url for field, url in named.items()}
            return output | {"id": identity, **turned, "mp3_duration": _SOUND, "wav_duration": _SOUND}
        case "voice":
            return output | {"id": identity, "name": task.submission.name, "url": urls[0], "owned_by": task.account}
        case "element":
            return output | {"id": identity, "name": task.submission.name, "references": urls, "status": "succeeded"}
        case _:
            # Below /solutions.
            return output | named | (_watermark(task, urls) if entry.type.endswith("video") else {})


def result_id(task: Task, number: int) -> str:
    """Return the ID of an entry of a result: 18 digits, as the provider's are today."""
    return str(_FIRST_RESULT_ID + task.index * _MOST_ENTRIES + number)


def _watermark(task: Task, urls: list[str]) -> JsonObject:
    return {"watermark_url": urls[0]} if task.submission.watermark else {}


def _duration(task: Task) -> JsonObject:
    return {"duration": task.submission.duration} if task.product.timed else {}


def _amount(units: float) -> str:
    return f"{units:g}"


def _price(units: float) -> dict[str, Any]:
    price = f"{units * _PRICE_OF_UNIT:.2f}"
    return {
        "final_unit_deduction": _amount(units),
        "final_balance_deduction": {"quota": price, "list_price": price},
    }
