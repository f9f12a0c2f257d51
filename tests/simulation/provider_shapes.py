"""What the fake provider has and how it writes it, from the documentation."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tracker.providers.base import Reply


@dataclass(slots=True, kw_only=True)
class Made:
    """One task that the provider made, and charged for when it succeeded."""

    id: str
    external_id: str | None
    prompt: str
    made_at: datetime
    processing_at: datetime
    final_at: datetime
    final: str
    callback_url: str | None
    # Whether its callbacks contradict each other; then the true one is sent until it is answered.
    contradicted: bool = False
    webhook_numbers: int = 0
    # Whether Homing took a true callback about its end.
    taken: bool = False

    def status(self, now: datetime) -> str:
        if now < self.processing_at:
            return "submitted"
        return "processing" if now < self.final_at else self.final

    def updated_at(self, now: datetime) -> datetime:
        if now < self.processing_at:
            return self.made_at
        return self.processing_at if now < self.final_at else self.final_at


def shown(
    made: Made,
    now: datetime,
    *,
    status: str | None = None,
    updated_at: datetime | None = None,
    is_new: bool = False,
) -> dict[str, Any]:
    """Write a task as the documentation shows it, ``is_new`` in the newer dialect."""
    status = status or made.status(now)
    if is_new:
        succeeded = status == "succeed"
        return {
            "id": made.id,
            "status": "succeeded" if succeeded else status,
            "message": "the content is not allowed" if status == "failed" else "",
            "create_time": milliseconds(made.made_at),
            "update_time": milliseconds(updated_at or made.updated_at(now)),
            "external_id": made.external_id or "",
            "outputs": [{"type": "video", "url": f"https://results.example/{made.id}.png"}] if succeeded else [],
            "billing": [{"charge_type": "unit", "amount": "8", "package_type": "video"}] if succeeded else [],
        }
    body: dict[str, Any] = {
        "task_id": made.id,
        "task_status": status,
        "task_status_msg": "the content is not allowed" if status == "failed" else "",
        "created_at": milliseconds(made.made_at),
        "updated_at": milliseconds(updated_at or made.updated_at(now)),
    }
    if made.external_id is not None:
        body["task_info"] = {"external_task_id": made.external_id}
    if status == "succeed":
        body["task_result"] = {"images": [{"index": 0, "url": f"https://results.example/{made.id}.png"}]}
        body["final_unit_deduction"] = "8"
    return body


def reply_of(
    status: int,
    code: int,
    message: str = "SUCCEED",
    *,
    data: Any = None,
    headers: dict[str, str] | None = None,
    plain: dict[str, Any] | None = None,
) -> Reply:
    body = plain or {
        "code": code,
        "message": message,
        "request_id": "simulated",
        **({} if data is None else {"data": data}),
    }
    return Reply(
        status=status, headers={"content-type": "application/json", **(headers or {})}, body=json.dumps(body).encode()
    )


def page_of(status: int) -> Reply:
    return Reply(status=status, headers={"content-type": "text/html"}, body=b"<html><h1>Bad Gateway</h1></html>")


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
