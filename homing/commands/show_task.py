"""Functions that print tasks on a terminal."""

import json
from argparse import Namespace
from datetime import UTC, datetime

from homing.terminal import ago, print_fields, print_json, print_line, print_table
from tracker.model.untrusted import JsonObject, JsonValue


def show_task(args: Namespace, task: JsonObject) -> None:
    """Print one task, as fields or as a JSON document."""
    if args.json:
        print_json(task)
        return
    now = datetime.now(UTC)
    print_fields(
        [
            ("id", task["id"]),
            ("status", task["status"]),
            ("message", task["message"] or task["reason"]),
            ("provider", f"{task['provider']} {task['kind']}"),
            ("model", task.get("model")),
            ("provider id", task["provider_task_id"]),
            ("external id", task["external_id"]),
            ("client", task["client"]),
            ("tags", ", ".join(map(str, _list(task["tags"])))),
            ("metadata", ", ".join(f"{key}={value}" for key, value in _object(task.get("metadata")).items())),
            ("reported by", reported_by(task)),
            ("created", ago(task["created_at"], now)),
            ("finished", ago(task["finished_at"], now)),
            ("polls", task["poll_count"] or None),
            ("next poll", ago(task["next_poll_at"], now)),
            *(("result", asset) for asset in assets(task)),
            *(() if task.get("output") is None or assets(task) else (("output", json.dumps(task["output"])),)),
            *((name, value) for name, value in _object(task["price"]).items()),
        ]
    )


def show_tasks(args: Namespace, document: JsonObject) -> None:
    """Print a page of tasks, newest first."""
    if args.json:
        print_json(document)
        return
    now = datetime.now(UTC)
    columns = ("task", "status", "external id", "client", "created", "reported by", "next poll", "message")
    rows = [
        (
            task["id"],
            task["status"],
            task["external_id"],
            task["client"],
            ago(task["created_at"], now),
            reported_by(task),
            ago(task["next_poll_at"], now),
            task["message"] or task["reason"],
        )
        for task in documents(document["tasks"])
    ]
    print_table(columns, rows, empty="No tasks.")
    if document.get("next_cursor"):
        print_line(f"More: --cursor {document['next_cursor']}")


def show_change(args: Namespace, task: JsonObject) -> None:
    """Print one line about a task that changed, or its JSON document."""
    if args.json:
        print_json(task)
        return
    message = task["message"] or task["reason"]
    print_line(f"{task['updated_at']}  {task['id']}  {task['status']}" + (f"  {message}" if message else ""))


def reported_by(task: JsonObject) -> str:
    """Return the source of the present status and its trust level."""
    source = task["status_source"]
    return f"{source['source']} ({source['trust']})" if isinstance(source, dict) else ""


def assets(task: JsonObject) -> list[str]:
    """Return the URLs of the assets."""
    result = _object(task["result"])
    return [str(asset["url"]) for asset in documents(result.get("assets"))]


def documents(value: JsonValue) -> list[JsonObject]:
    """Return the objects of a list in a document."""
    return [item for item in _list(value) if isinstance(item, dict)]


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
