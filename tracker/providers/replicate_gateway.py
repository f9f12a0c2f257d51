"""The gateway's answers to Replicate's clients, and the callbacks to them, in Replicate's shape.

Documentation: as in ``replicate_reports``. The ID is Homing's: every query of the gateway accepts it. Its client
library knows only five words, so these are all that clients get. Homing keeps no logs, so they are empty.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tracker.model import facts
from tracker.model.task import SETTLED, Status, Task
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.replicate_order import ALL_EVENTS, COMPLETED, EVENTS, MODEL, START

STATUSES: Final[Mapping[Status, str]] = MappingProxyType(
    {
        Status.PENDING: "starting",
        Status.SUBMITTED: "starting",
        Status.PROCESSING: "processing",
        Status.SUCCEEDED: "succeeded",
        Status.FAILED: "failed",
        # Replicate has no such statuses. The error explains them to its clients.
        Status.REJECTED: "failed",
        Status.EXPIRED: "failed",
    }
)
INFERRED_ERRORS: Final[Mapping[Status, str]] = MappingProxyType(
    {
        Status.REJECTED: "the provider refused this prediction",
        Status.EXPIRED: "no result came before the deadline",
        Status.FAILED: "the prediction failed",
    }
)
CANCELED: Final = frozenset({"canceled", "aborted"})


def prediction(task: Task) -> JsonObject:
    """Return the prediction of a query, of an entry in a list, and of a callback."""
    status = _status(task)
    message = facts.message(task) or INFERRED_ERRORS.get(task.status)
    metrics = facts.price(task).get("metrics")
    model, version = _names(task.model or "")
    return {
        "id": task.id,
        "model": model,
        "version": version,
        "input": task.request.get("input", {}),
        "logs": "",
        "output": facts.output(task),
        "data_removed": False,
        "error": message if status == "failed" else None,
        "source": "api",
        "status": status,
        "created_at": _written(task.created_at),
        "started_at": _written(task.submitted_at) if status != "starting" else None,
        "completed_at": _written(task.finished_at) if task.status in SETTLED else None,
        "metrics": metrics if isinstance(metrics, dict) else {},
        "urls": {},
    }


def created(task: Task, *, base_url: str) -> JsonObject:
    """Return the reply to a create request.

    With ``Prefer: wait`` the client library takes every word except "starting" for the end. So an unfinished prediction
    is starting here.
    """
    shown = with_urls(task, base_url=base_url)
    return shown if task.status in SETTLED else shown | {"status": "starting", "started_at": None}


def with_urls(task: Task, *, base_url: str) -> JsonObject:
    """Return the prediction with the address at which its client can query it."""
    return prediction(task) | {"urls": {"get": f"{base_url}/v1/predictions/{task.id}"}}


def page(tasks: Iterable[Task], *, base_url: str, following: str | None) -> JsonObject:
    """Return one page of a list. ``following`` is the query of the next one."""
    return {
        "previous": None,
        "next": None if following is None else f"{base_url}/v1/predictions?{following}",
        "results": [with_urls(task, base_url=base_url) for task in tasks],
    }


def problem(status: int, title: str, detail: str) -> JsonObject:
    """Return an error in the form that the client library reads."""
    return {"title": title, "detail": detail, "status": status}


def wants_callback(task: Task) -> bool:
    """Return whether the client asked for a callback about the present status."""
    wanted = task.request.get(EVENTS)
    event = COMPLETED if task.status in SETTLED else START
    return event in (wanted if isinstance(wanted, list) else ALL_EVENTS)


def _status(task: Task) -> str:
    # Replicate's own word is the message of a prediction that was canceled without an error.
    if task.status is Status.FAILED and facts.message(task) in CANCELED:
        return "canceled"
    return STATUSES[task.status]


def _names(model: str) -> tuple[JsonValue, JsonValue]:
    """Return the model and the version. The client library requires a text for both."""
    match = MODEL.fullmatch(model)
    version = match["version"] if match is not None else None
    return model.removesuffix(f":{version}").removeprefix("deployments/"), version or ""


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
