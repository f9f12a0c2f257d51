"""The bodies of the provider: its reply envelope, and a task in the legacy and in the new shape.

Documented: the field names of both shapes, in queries and callbacks (official "Callback Protocol", "Omni-Image" and
task query pages). Live: the message `SUCCEED`, and the empty objects `task_info` and `task_result` while a task is
not finished (in queries; callbacks are documented with `task_info`). Assumed: a legacy callback has the pictures of a
series in the same place as a query.
"""

import json
from collections.abc import Mapping
from typing import Any, assert_never

from homing.sandbox.settings import CallbackShape
from homing.sandbox.submission import OMNI_IMAGE, JsonObject
from homing.sandbox.task import SUCCEED, State, Task

_NEW_STATUSES = {SUCCEED: "succeeded"}
_PRICE_OF_UNIT = 0.14  # USD at list price, as others computed it


def dumps(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def envelope(data: object, request_id: str) -> JsonObject:
    return {"code": 0, "message": "SUCCEED", "request_id": request_id, "data": data}


def refusal(code: int, message: str, request_id: str) -> JsonObject:
    """Return the body of an error. It has no `data`, as documented for 1303."""
    return {"code": code, "message": message, "request_id": request_id}


def created(task: Task, *, reseller: bool) -> JsonObject:
    """Return the `data` of the reply to a create request. A reseller's has no `task_info`, as documented."""
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
        "status": _NEW_STATUSES.get(state.status, state.status),
        "message": state.message,
        "create_time": task.created_at,
        "update_time": state.updated_at,
        "external_id": "" if reseller else task.external_id or "",
        "outputs": [_output(task, url) for url in state.pictures],
        "billing": [],
    }
    if state.status == SUCCEED:
        body["billing"] = [{"charge_type": "unit", "package_type": "image", "amount": str(task.units)}]
    return body


def callback(task: Task, state: State, shape: CallbackShape, *, reseller: bool) -> JsonObject:
    """Return the body of a callback. The enveloped shape is only known from receivers that accept it."""
    match shape:
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


def _task_info(task: Task, *, reseller: bool) -> Mapping[str, str]:
    return {} if reseller or task.external_id is None else {"external_task_id": task.external_id}


def _legacy_result(task: Task, state: State) -> JsonObject:
    images = [_image(task, index, url) for index, url in enumerate(state.pictures)]
    return {"series_images" if task.submission.series else "images": images} if images else {}


def _image(task: Task, index: int, url: str) -> JsonObject:
    image: JsonObject = {"index": index, "url": url}
    return image | {"watermark_url": url} if task.submission.watermark else image


def _output(task: Task, url: str) -> JsonObject:
    output: JsonObject = {"type": "image", "url": url}
    if task.submission.watermark:
        output["watermark_url"] = url
    return output | {"group_id": f"group-{task.id}"} if task.submission.series else output


def _price(units: int) -> dict[str, Any]:
    price = f"{units * _PRICE_OF_UNIT:.2f}"
    return {
        "final_unit_deduction": str(units),
        "final_balance_deduction": {"quota": price, "list_price": price},
    }
