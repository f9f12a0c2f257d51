"""`homing tasks watch` and `homing events`: print changes as they come, also across lost connections."""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from homing.commands.arguments import Commands, cursor, data_command
from homing.commands.client import LONG_POLL_SECONDS, ApiClient, Lost, Params, segment
from homing.commands.show_task import documents, show_change
from homing.terminal import complain, json_text, print_line
from tracker.model.event import TASK_TYPE
from tracker.model.task import SETTLED, Status
from tracker.model.untrusted import JsonObject

PAUSE: Final = 1.0
WATCHED: Final = "200"
EVENTS: Final = "/v1/events"
FILTERS: Final = ("type", "provider", "kind", "client", "tag")


def add(commands: Commands) -> None:
    """Declare `homing events`."""
    events = data_command(
        commands,
        "events",
        run_events,
        "Print events, one per line: the stored ones, or new ones as they come.",
        reads=True,
    )
    events.add_argument(
        "--type", action="append", help="for example succeeded or homing.alarm.*; repeatable, like the next ones"
    )
    events.add_argument("--provider", action="append", help="such as kling")
    events.add_argument("--kind", action="append", help="such as images/*")
    events.add_argument("--client", action="append", help="only with a key for all clients")
    events.add_argument("--tag", action="append")
    events.add_argument("--task", help="only events of this task")
    events.add_argument(
        "--after",
        type=cursor,
        metavar="N",
        help="continue after this cursor (default: the beginning; with --follow: now)",
    )
    # --follow waits for changes. If no server runs, the loops must run in this process.
    events.add_argument("--follow", action="store_true", dest="loops", help="continue until Ctrl-C")


def add_watch(verbs: Commands) -> None:
    """Declare `homing tasks watch`."""
    sentence = "Print each change as it comes, of named tasks until they finish. Exit status 0 only if all succeeded."
    watch: ArgumentParser = data_command(verbs, "watch", run_watch, sentence, loops=True, verb=True)
    watch.add_argument("task", nargs="*", metavar="TASK", help="all tasks if none is named")


async def run_events(args: Namespace, api: ApiClient) -> int:
    query: dict[str, str | list[str]] = {name: getattr(args, name) for name in FILTERS if getattr(args, name)}
    if args.task:
        query["task"] = args.task
    after = args.after if args.after is not None else None if args.loops else 0
    async for event in followed(api, query, after=after, forever=args.loops):
        _print_event(args, event)
    return 0


async def run_watch(args: Namespace, api: ApiClient) -> int:
    if not args.task:
        return await _watch_all(args, api)
    ends = await asyncio.gather(*(_watch(args, api, name) for name in args.task))
    return 0 if all(status == Status.SUCCEEDED for status in ends) else 1


async def followed(api: ApiClient, query: Params, *, after: int | None, forever: bool) -> AsyncIterator[JsonObject]:
    """Yield events after a cursor (None: now), ``forever`` or up to the newest."""
    if after is None:
        after = int(str((await api.get(EVENTS, {"limit": "1"}))["next"]))
    more = True
    while more or forever:
        wait = LONG_POLL_SECONDS if forever else "0"
        page = await _again(api, EVENTS, {**query, "after": str(after), "wait": wait}, forever=forever)
        after, more = int(str(page["next"])), bool(page["more"])
        for event in documents(page["events"]):
            yield event


async def _watch(args: Namespace, api: ApiClient, name: str) -> str:
    """Print each version of a task until it is settled, and return its status."""
    task = await api.get(f"/v1/tasks/{segment(name)}")
    show_change(args, task)
    while task["status"] not in SETTLED:
        known = task["version"]
        path = f"/v1/tasks/{segment(str(task['id']))}"
        task = await _again(api, path, {"wait": LONG_POLL_SECONDS, "version": str(known)}, forever=True)
        if task["version"] != known:
            show_change(args, task)
    return str(task["status"])


async def _watch_all(args: Namespace, api: ApiClient) -> int:
    """Print the newest tasks, then each change of any task."""
    start = int(str((await api.get(EVENTS, {"limit": "1"}))["next"]))
    newest = documents((await api.get("/v1/tasks", {"limit": WATCHED}))["tasks"])
    seen = {task["id"]: task["version"] for task in newest}
    for task in reversed(newest):
        show_change(args, task)
    async for event in followed(api, {"type": f"{TASK_TYPE}*"}, after=start, forever=True):
        (task,) = documents([event["data"]])
        if seen.get(task["id"]) != task["version"]:
            show_change(args, task)
    return 0


async def _again(api: ApiClient, path: str, query: Params, *, forever: bool) -> JsonObject:
    """Send a GET request. If ``forever``, repeat it until the server is reachable again."""
    lost = False
    while True:
        try:
            return await api.get(path, query)
        except Lost as error:
            if not forever:
                raise
            if not lost:
                complain(f"{error.detail}. Trying again")
            lost = True
            await asyncio.sleep(PAUSE)


def _print_event(args: Namespace, event: JsonObject) -> None:
    """Print an event as one line, with --json as one line of JSON."""
    if args.json:
        sys.stdout.write(json_text(event) + "\n")
    else:
        data = event["data"] if isinstance(event["data"], dict) else {}
        about = data.get("message") or data.get("reason") or data.get("detail")
        fields = [_short(str(event["time"])), str(event["type"]), str(event["subject"])]
        if "version" in data:
            fields.append(f"version {data['version']}")
        print_line("  ".join([*fields, *([str(about)] if about else [])]))
    sys.stdout.flush()


def _short(time: str) -> str:
    return datetime.fromisoformat(time).isoformat(timespec="milliseconds")
