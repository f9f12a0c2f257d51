"""`homing sinks | deliveries | replay`: the progress of sinks, their pending deliveries and dead letters."""

from argparse import SUPPRESS, Namespace
from datetime import UTC, datetime
from typing import Final

from homing.commands.arguments import Commands, Usage, count, data_command, moment
from homing.commands.client import ApiClient, segment
from homing.commands.show_task import documents
from homing.terminal import ago, print_json, print_line, print_table, span
from tracker.model.sinks import CALLBACKS
from tracker.model.untrusted import JsonObject, JsonValue

SINKS: Final = "/v1/sinks"
NO_DELIVERIES: Final = {
    None: "No pending deliveries and no dead letters.",
    "pending": "No pending deliveries.",
    "dead_letter": "No dead letters.",
}


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    sinks = data_command(
        commands, "sinks", run_sinks, "Show the progress of each sink. Pause, resume or delete one.", reads=True
    )
    verbs = sinks.add_subparsers(metavar="VERB")
    one = {
        "pause": (run_pause, "Stop deliveries to a sink until it is resumed. Its events are kept."),
        "resume": (run_resume, "Resume deliveries to a sink, also after its endpoint answered 410."),
        "delete": (run_delete, "Delete a sink that HOMING_SINKS no longer names."),
        "secret": (run_secret, "Show the secrets with which an endpoint verifies Homing's signature."),
    }
    parsers = {name: data_command(verbs, name, run, sentence, verb=True) for name, (run, sentence) in one.items()}
    for parser in parsers.values():
        parser.add_argument("sink", metavar="NAME", help="as `homing sinks` shows it")
    parsers["resume"].add_argument(
        "--from-now",
        action="store_true",
        help="skip all events until now, and drop its pending deliveries and dead letters",
    )
    parsers["secret"].add_argument("--client", help="for the sink `callbacks`, which has one secret per client")

    deliveries = data_command(
        commands,
        "deliveries",
        run_deliveries,
        "List events that a sink has not accepted yet, or never will.",
        reads=True,
    )
    state = deliveries.add_mutually_exclusive_group()
    for option, value, sentence in (
        ("--pending", "pending", "only deliveries that will be retried"),
        ("--dead-letter", "dead_letter", "only deliveries that are no longer retried"),
    ):
        state.add_argument(option, action="store_const", const=value, dest="state", help=sentence)
    deliveries.add_argument("--sink", metavar="NAME")
    deliveries.add_argument("--task", help="only events of this task, by any of its IDs")
    deliveries.add_argument("--limit", type=count, help="how many at most (default 50)")
    deliveries.add_argument("--cursor", help="the cursor that the previous page ended with")

    verbs = deliveries.add_subparsers(metavar="VERB")
    sentence = "Stop retrying deliveries. Dry run unless you pass --yes."
    dead_letter = data_command(verbs, "dead-letter", run_dead_letter, sentence, verb=True)
    dead_letter.add_argument("--sink", metavar="NAME", default=SUPPRESS, help="only deliveries to this sink")
    dead_letter.add_argument("--task", default=SUPPRESS, help="only events of this task, by any of its IDs")
    dead_letter.add_argument("--event", metavar="ID", help="only this event, as `homing deliveries` shows it")
    dead_letter.add_argument("--yes", action="store_true", help="do it, instead of counting only")

    replay = data_command(
        commands, "replay", run_replay, "Replay past events to a sink. Dry run unless you pass --yes."
    )
    replay.add_argument("sink", metavar="SINK", help="as `homing sinks` shows it")
    replay.add_argument("--task", help="only events of this task")
    replay.add_argument(
        "--since",
        metavar="TIME",
        type=moment,
        help="only events from then on: 2026-11-23T00:00:00Z, or 1h for an hour ago",
    )
    replay.add_argument("--until", metavar="TIME", type=moment, help="only events before then, written the same way")
    replay.add_argument("--dead-letter", action="store_true", help="only deliveries that are no longer retried")
    replay.add_argument("--yes", action="store_true", help="do it, instead of counting only")


async def run_sinks(args: Namespace, api: ApiClient) -> int:
    document = await api.get(SINKS)
    if args.json:
        print_json(document)
        return 0
    now, sinks = datetime.now(UTC), list(documents(document["sinks"]))
    columns = (
        "sink",
        "URL",
        "state",
        "unread events",
        "pending",
        "dead letters",
        "lag",
        "delivered",
        "next attempt",
        "last error",
    )
    rows = [
        [
            *(sink[name] for name in ("name", "url")),
            _state(sink),
            f"at least {sink['unread']}" if sink["unread_at_least"] else sink["unread"],
            *(sink[name] for name in ("pending", "dead_letters")),
            _span(sink["lag"]),
            sink["delivered"],
            _ahead(sink["retry_at"], now),
            _error(sink, now),
        ]
        for sink in sinks
    ]
    print_table(columns, rows, empty="No sinks. Add them to HOMING_SINKS, then start `homing serve`.")
    for sink in sinks:
        if isinstance(off := sink["off"], dict):
            print_line(_off(str(sink["name"]), off, now))
    return 0


async def run_pause(args: Namespace, api: ApiClient) -> int:
    document = await api.post(f"{SINKS}/{segment(args.sink)}/pause")
    return _done(args, document, f"{args.sink} is paused. Its events are kept until you resume it")


async def run_resume(args: Namespace, api: ApiClient) -> int:
    how = "?from_now=true" if args.from_now else ""
    document = await api.post(f"{SINKS}/{segment(args.sink)}/resume{how}")
    missed = "without the events that it missed" if args.from_now else "beginning with the events that it missed"
    return _done(args, document, f"deliveries to {args.sink} are resumed, {missed}")


async def run_delete(args: Namespace, api: ApiClient) -> int:
    document = await api.delete(f"{SINKS}/{segment(args.sink)}")
    return _done(args, document, f"{args.sink} is deleted. If HOMING_SINKS names it again, it is a new sink")


async def run_secret(args: Namespace, api: ApiClient) -> int:
    if args.sink == CALLBACKS and not args.client:
        raise Usage(f"sink `{CALLBACKS}` has one secret per client. Choose the client with --client NAME")
    query = {"client": args.client} if args.client else None
    document = await api.get(f"{SINKS}/{segment(args.sink)}/secret", query)
    if args.json:
        print_json(document)
        return 0
    secrets = document["secrets"]
    for secret in secrets if isinstance(secrets, list) else ():
        print_line(str(secret))
    return 0


async def run_deliveries(args: Namespace, api: ApiClient) -> int:
    names = ("sink", "task", "state", "limit", "cursor")
    query = {name: str(value) for name in names if (value := getattr(args, name)) is not None}
    document = await api.get("/v1/deliveries", query)
    if args.json:
        print_json(document)
        return 0
    now = datetime.now(UTC)
    columns = ("sink", "event", "type", "state", "attempts", "first attempt", "last attempt", "next attempt", "error")
    rows = [
        [
            *(delivery[name] for name in ("sink", "event_id", "type", "state", "attempts")),
            *(ago(delivery[name], now) for name in ("first_at", "last_at")),
            _ahead(delivery["next_at"], now),
            delivery["error"] or ("waits for an earlier event of its task" if not delivery["attempts"] else ""),
        ]
        for delivery in documents(document["deliveries"])
    ]
    print_table(columns, rows, empty=NO_DELIVERIES[args.state])
    if document["next_cursor"]:
        print_line(f"More: --cursor {document['next_cursor']}")
    return 0


async def run_dead_letter(args: Namespace, api: ApiClient) -> int:
    body: JsonObject = {"dry_run": not args.yes}
    chosen = {name: value for name in ("sink", "task", "event") if (value := getattr(args, name)) is not None}
    if not chosen:
        raise Usage("no deliveries are selected. Add at least one of --sink, --task and --event")
    body |= chosen
    document = await api.post("/v1/deliveries/dead-letter", body)
    number = document["count"]
    deliveries = "1 delivery" if number == 1 else f"{number} deliveries"
    if args.yes:
        return _done(args, document, f"{deliveries} dead-lettered. See `homing deliveries --dead-letter`")
    more = ". Add --yes to do it" if number else ""
    return _done(args, document, f"{deliveries} would be dead-lettered{more}")


async def run_replay(args: Namespace, api: ApiClient) -> int:
    body: JsonObject = {"sink": args.sink, "dead_letter": args.dead_letter, "dry_run": not args.yes}
    chosen = {name: value for name in ("task", "since", "until") if (value := getattr(args, name)) is not None}
    if not chosen and not args.dead_letter:
        raise Usage("no events are selected. Add at least one of --task, --since, --until and --dead-letter")
    body |= chosen
    document = await api.post("/v1/replay", body)
    number = document["count"]
    events = "1 event" if number == 1 else f"{number} events"
    if args.yes:
        return _done(args, document, f"{events} {'is' if number == 1 else 'are'} replayed to {args.sink}")
    more = ". Add --yes to do it" if number else ""
    return _done(args, document, f"{events} would be replayed to {args.sink}{more}")


def _done(args: Namespace, document: JsonObject, sentence: str) -> int:
    if args.json:
        print_json(document)
    else:
        print_line(sentence)
    return 0


def _state(sink: JsonObject) -> JsonValue:
    return sink["state"] if sink["configured"] else f"{sink['state']}, not configured"


def _off(name: str, off: JsonObject, now: datetime) -> str:
    cause = f"its endpoint refused further events: {off['why']} ({ago(off['at'], now)})"
    cause = cause if off["by"] == "endpoint" else "paused"
    return f"{name} is off, {cause}. `homing sinks resume {name}` resumes it with the events that it missed"


def _ahead(moment: JsonValue, now: datetime) -> str:
    """Return when the next attempt is. A due delivery may wait for its endpoint, or for an earlier event."""
    distance = ago(moment, now)
    return "due" if distance.endswith(" ago") else distance


def _span(seconds: JsonValue) -> str:
    return span(seconds) if isinstance(seconds, int | float) else ""


def _error(sink: JsonObject, now: datetime) -> str:
    return f"{sink['last_error']} ({ago(sink['last_error_at'], now)})" if sink["last_error"] else ""
