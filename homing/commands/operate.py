"""`homing callback-url | orphans | stats | audit | helper-calls`: for operators."""

from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from homing.commands.arguments import Commands, always, count, data_command
from homing.commands.client import ApiClient
from homing.commands.show_task import documents
from homing.terminal import ago, print_fields, print_json, print_line, print_table
from tracker.model.helper_records import HelperState
from tracker.model.records import Action
from tracker.model.untrusted import JsonObject, JsonValue

CALLBACK_URLS: Final = "/v1/callback-urls"


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    urls = data_command(
        commands, "callback-url", run_list_urls, "Create, list or revoke shared callback URLs.", reads=True
    )
    verbs = urls.add_subparsers(metavar="VERB")
    url = data_command(
        verbs,
        "create",
        run_create_url,
        "Create a shared callback URL. It is shown only once. Example: homing callback-url create kling",
        verb=True,
        creates=always,
    )
    url.add_argument("provider", metavar="PROVIDER", help="for example kling")
    url.add_argument("--kind", help="accept only this kind, for example images/omni-image")
    url.add_argument("--label", default="", help="a note for yourself")
    data_command(verbs, "list", run_list_urls, "List shared callback URLs.", verb=True, reads=True)
    revoke = data_command(verbs, "revoke", run_revoke_url, "Revoke a shared callback URL.", verb=True)
    revoke.add_argument("id", metavar="NUMBER", type=count, help="as `homing callback-url list` shows it")
    orphans = data_command(commands, "orphans", run_orphans, "List callbacks for unknown tasks.", reads=True)
    orphans.add_argument("--limit", type=count, default=100, help="how many at most (default 100)")
    data_command(commands, "stats", run_stats, "Count tasks, callbacks, polls and alarms.", reads=True)
    audit = data_command(
        commands, "audit", run_audit, "List what operators did: replays, pauses, resolutions and others.", reads=True
    )
    audit.add_argument("--action", choices=[action.value for action in Action], help="only entries of this action")
    helpers = data_command(
        commands, "helper-calls", run_helper_calls, "List helper calls that cost or make something.", reads=True
    )
    helpers.add_argument("--state", choices=[state.value for state in HelperState], help="only calls in this state")
    for paged in (audit, helpers):
        paged.add_argument("--client", help="only entries of this client")
        paged.add_argument("--limit", type=count, help="how many at most (default 100)")
        paged.add_argument("--cursor", type=count, help="the cursor that the previous page ended with")


async def run_audit(args: Namespace, api: ApiClient) -> int:
    document = await api.get("/v1/audit", _given(args, "client", "action", "limit", "cursor"))
    columns = ("at", "client", "action", "object", "detail")
    return _print_page(args, document, "entries", columns, empty="No audit entries.")


async def run_helper_calls(args: Namespace, api: ApiClient) -> int:
    document = await api.get("/v1/helper-calls", _given(args, "client", "state", "limit", "cursor"))
    columns = ("id", "created_at", "client", "call", "state", "why")
    return _print_page(args, document, "calls", columns, empty="No recorded helper calls.")


def _given(args: Namespace, *names: str) -> dict[str, str]:
    given = {name: getattr(args, name) for name in names}
    return {name: str(value) for name, value in given.items() if value is not None}


def _print_page(args: Namespace, document: JsonObject, name: str, columns: Sequence[str], *, empty: str) -> int:
    if args.json:
        print_json(document)
        return 0
    rows = [[entry[column] for column in columns] for entry in documents(document[name])]
    print_table(columns, rows, empty=empty)
    if document["next_cursor"] is not None:
        print_line(f"More: --cursor {document['next_cursor']}")
    return 0


async def run_create_url(args: Namespace, api: ApiClient) -> int:
    body: JsonObject = {"provider": args.provider, "label": args.label}
    if args.kind:
        body["kind"] = args.kind
    document = await api.post(CALLBACK_URLS, body)
    if args.json:
        print_json(document)
        return 0
    print_line(str(document["callback_url"]))
    print_line("Homing shows this URL only once. Register it now.")
    return 0


async def run_orphans(args: Namespace, api: ApiClient) -> int:
    document = await api.get("/v1/orphans", {"limit": str(args.limit)})
    if args.json:
        print_json(document)
        return 0
    now = datetime.now(UTC)
    columns = ("provider", "provider task ID", "status", "state", "reason", "callbacks", "last", "next poll", "task")
    rows = [
        [
            *(
                orphan[name]
                for name in ("provider", "provider_task_id", "provider_status", "state", "why", "callbacks")
            ),
            ago(orphan["last_at"], now),
            ago(orphan["next_poll_at"], now),
            orphan["task_id"],
        ]
        for orphan in documents(document["orphans"])
    ]
    print_table(columns, rows, empty="No orphan callbacks.")
    return 0


async def run_stats(args: Namespace, api: ApiClient) -> int:
    document = await api.get("/v1/stats")
    if args.json:
        print_json(document)
        return 0
    now = datetime.now(UTC)
    names = ("open", "due", "callbacks", "duplicate_callbacks", "unverified_callbacks", "polls")
    print_fields(
        [
            ("tasks", _counts(document["by_status"])),
            ("first reported by", _counts(document["finished_by_source"])),
            ("orphans", _counts(document["orphans"])),
            ("orphans not kept", document["orphans_not_kept"]),
            ("oldest open", ago(document["oldest_open_at"], now)),
            *((name.replace("_", " "), document[name]) for name in names),
        ]
    )
    _print_learned(document)
    columns = ("alarm", "provider", "count", "last", "task", "detail")
    rows = [
        [
            alarm["kind"],
            alarm["provider"],
            alarm["count"],
            ago(alarm["last_at"], now),
            alarm["task_id"],
            alarm["detail"],
        ]
        for alarm in documents(document["alarms"])
    ]
    print_table(columns, rows, empty="No alarms.")
    return 0


def _print_learned(document: JsonObject) -> None:
    """Print the measured callback losses and run times, if there are any."""
    losses, times = documents(document.get("callback_loss")), documents(document.get("run_times"))
    if losses:
        rows = [
            [
                *(loss[name] for name in ("provider", "kind")),
                _percent(loss["rate"]),
                f"{_percent(loss['low'])} and {_percent(loss['high'])}",
                loss["tasks"],
            ]
            for loss in losses
        ]
        print_table(("provider", "kind", "callbacks lost", "likely between", "tasks"), rows, empty="")
    if times:
        rows = [
            [*(one[name] for name in ("provider", "kind", "model")), f"{one['median']:.1f} s", one["tasks"]]
            for one in times
        ]
        print_table(("provider", "kind", "model", "median run time", "tasks"), rows, empty="")


def _percent(value: JsonValue) -> str:
    return f"{value:.1%}" if isinstance(value, float | int) else ""


async def run_list_urls(args: Namespace, api: ApiClient) -> int:
    document = await api.get(CALLBACK_URLS)
    if args.json:
        print_json(document)
        return 0
    now = datetime.now(UTC)
    columns = ("number", "provider", "kind", "client", "label", "created", "revoked")
    rows = [
        [
            *(url[name] for name in ("id", "provider", "kind", "client", "label")),
            ago(url["created_at"], now),
            ago(url["revoked_at"], now),
        ]
        for url in documents(document["callback_urls"])
    ]
    print_table(columns, rows, empty="No shared callback URLs. Create one with `homing callback-url create kling`.")
    return 0


async def run_revoke_url(args: Namespace, api: ApiClient) -> int:
    document = await api.delete(f"{CALLBACK_URLS}/{args.id}")
    if args.json:
        print_json(document)
        return 0
    print_line(f"callback URL {args.id} is revoked. Requests to it get 404")
    return 0


def _counts(value: JsonValue) -> str:
    counts = value.items() if isinstance(value, dict) else ()
    return ", ".join(f"{number} {name}" for name, number in counts if number)
