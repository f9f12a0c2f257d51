"""The provider's reports about a task, in its two documented dialects."""

from typing import Final

from tracker.model.untrusted import JsonObject, JsonValue

SUCCEED: Final = "succeed"


def legacy(task_id: str, *, external_id: str, status: str, created_ms: int, updated_ms: int) -> JsonObject:
    """Return a task in the shape of callbacks and of the query for one task. Times are Unix milliseconds."""
    report: JsonObject = {
        "task_id": task_id,
        "task_status": status,
        "task_status_msg": "",
        "task_info": {"external_task_id": external_id},
        "task_result": {},
        "created_at": created_ms,
        "updated_at": updated_ms,
    }
    if status == SUCCEED:
        report["task_result"] = {"images": [{"index": 0, "url": _result(task_id)}]}
        report["final_unit_deduction"] = "8"
        report["final_balance_deduction"] = {"quota": "1.12", "list_price": "1.12"}
    return report


def new(task_id: str, *, external_id: str, status: str, created_ms: int, updated_ms: int) -> JsonObject:
    """Return a task in the shape of the query for many tasks."""
    ended = status == SUCCEED
    return {
        "id": task_id,
        "status": "succeeded" if ended else status,
        "message": "",
        "external_id": external_id,
        "create_time": created_ms,
        "update_time": updated_ms,
        "outputs": [{"type": "image", "url": _result(task_id)}] if ended else [],
        "billing": [{"charge_type": "unit", "package_type": "image", "amount": "8"}] if ended else [],
    }


def envelope(data: JsonValue) -> JsonObject:
    """Return a reply with ``data``."""
    return {"code": 0, "message": "SUCCEED", "request_id": "CjMT7WdSwWcAAAAAALvB3g", "data": data}


def _result(task_id: str) -> str:
    return f"https://results.example/bigdata/{task_id}/0.png?expires=1790000000"
