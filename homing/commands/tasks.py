"""`homing tasks …` and `homing why`: commands that show, poll and resolve tasks."""

from argparse import SUPPRESS, ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import Final

from homing.commands import watch
from homing.commands.arguments import Commands, count, data_command, entry
from homing.commands.client import ApiClient, segment
from homing.commands.show_task import documents, show_task, show_tasks
from homing.commands.why import explain
from homing.terminal import print_json, print_line, print_table
from tracker.model.task import Status
from tracker.model.untrusted import JsonObject

PLACES: Final = ("provider", "kind", "model", "client", "tag")
FILTERS: Final = ("status", *PLACES, "created_after", "created_before", "limit", "cursor")


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    tasks = data_command(
        commands, "tasks", run_list, "List, show, poll and resolve tasks. Without a verb: list the newest.", reads=True
    )
    _filters(tasks)
    verbs = tasks.add_subparsers(metavar="VERB")
    _filters(
        data_command(verbs, "list", run_list, "List tasks, newest first.", verb=True, reads=True), default=SUPPRESS
    )
    one = {
        "show": (run_show, "Show one task."),
        "history": (run_history, "Show each observation of a task: its source, its trust level and its effect."),
        "poll": (run_poll, "Poll the provider about a task now."),
        "attach": (run_attach, "Attach the provider's ID to an expected task."),
        "resolve": (run_resolve, "Decide the status of a task that polling cannot decide."),
    }
    parsers = {
        name: data_command(verbs, name, run, sentence, verb=True, reads=name in {"show", "history"})
        for name, (run, sentence) in one.items()
    }
    parsers["why"] = data_command(
        commands, "why", run_why, "Explain the status of a task, and what would change it.", reads=True
    )
    for parser in parsers.values():
        parser.add_argument("task", metavar="TASK", help="Homing's ID, the provider's ID, or your external ID")
    parsers["attach"].add_argument("provider_task_id", metavar="PROVIDER_TASK_ID")
    decision = parsers["resolve"].add_mutually_exclusive_group(required=True)
    decision.add_argument(
        "--status",
        choices=("rejected", "expired", "succeeded", "failed"),
        help="how it ended; succeeded and failed decide a conflict",
    )
    decision.add_argument("--provider-task-id", metavar="ID", help="the provider's ID, which is then polled")
    parsers["resolve"].add_argument("--note", default="", help="why, for the history")
    watch.add_watch(verbs)


def _filters(parser: ArgumentParser, *, default: str | None = None) -> None:
    parser.add_argument(
        "--status", action="append", choices=[status.value for status in Status], default=default, help="repeatable"
    )
    parser.add_argument("--provider", default=default, help="such as kling")
    parser.add_argument("--kind", default=default, help="such as images/omni-image")
    parser.add_argument("--model", default=default, help="the requested model, such as kling-v3-omni")
    parser.add_argument("--client", default=default, help="only with a key for all clients")
    parser.add_argument("--tag", default=default)
    parser.add_argument(
        "--metadata",
        type=entry,
        action="append",
        default=default,
        metavar="KEY=VALUE",
        help="repeatable; all must match",
    )
    parser.add_argument("--created-after", default=default, metavar="TIME", help="such as 2026-11-23T00:00:00Z")
    parser.add_argument("--created-before", default=default, metavar="TIME")
    parser.add_argument("--limit", type=count, default=default, help="how many at most (default 50)")
    parser.add_argument("--cursor", default=default, help="the cursor that the previous page ended with")


async def run_list(args: Namespace, api: ApiClient) -> int:
    show_tasks(args, await api.get("/v1/tasks", _query(args)))
    return 0


async def run_show(args: Namespace, api: ApiClient) -> int:
    show_task(args, await api.get(_path(args.task)))
    return 0


async def run_history(args: Namespace, api: ApiClient) -> int:
    document = await api.get(_path(args.task) + "/history")
    if args.json:
        print_json(document)
        return 0
    columns = ("at", "source", "trust", "status", "verdict", "why", "repeats")
    rows = [
        [
            entry["at"],
            entry["source"],
            entry["trust"],
            entry["provider_status"],
            entry["verdict"],
            entry["why"],
            entry["repeats"],
        ]
        for entry in documents(document["entries"])
    ]
    print_table(columns, rows, empty="No observations yet.")
    return 0


async def run_poll(args: Namespace, api: ApiClient) -> int:
    document = await api.post(_path(args.task) + "/poll")
    if args.json:
        print_json(document)
        return 0
    print_line(str(document["outcome"]))
    (task,) = documents([document["task"]])
    show_task(args, task)
    return 0


async def run_attach(args: Namespace, api: ApiClient) -> int:
    show_task(args, await api.patch(_path(args.task), {"provider_task_id": args.provider_task_id}))
    return 0


async def run_resolve(args: Namespace, api: ApiClient) -> int:
    body: JsonObject = {"note": args.note}
    if args.status:
        body["status"] = args.status
    else:
        body["provider_task_id"] = args.provider_task_id
    show_task(args, await api.post(_path(args.task) + "/resolve", body))
    return 0


async def run_why(args: Namespace, api: ApiClient) -> int:
    document = await api.get(_path(args.task) + "/history")
    (task,) = documents([document["task"]])
    account = documents(document.get("account"))
    sentences = explain(task, documents(document["entries"]), datetime.now(UTC), account=account)
    if args.json:
        print_json({"task_id": task["id"], "status": task["status"], "why": list(sentences)})
        return 0
    print_line(str(task["id"]))
    for sentence in sentences:
        print_line(f"  {sentence}")
    return 0


def _query(args: Namespace) -> dict[str, str]:
    given = {name: getattr(args, name, None) for name in FILTERS}
    query = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in given.items() if value}
    return query | {f"metadata[{key}]": value for key, value in getattr(args, "metadata", None) or ()}


def _path(task: str) -> str:
    return f"/v1/tasks/{segment(task)}"
