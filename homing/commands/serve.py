"""Declares `homing serve | migrate | reconcile | demo | doctor | openapi | asyncapi | key`: they ask no server."""

import secrets
from argparse import Namespace
from typing import Final

from homing.commands.arguments import Commands, count, parts, plain_command, port, units
from homing.terminal import print_json, print_line

KEY_BYTES: Final = 32


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    server = plain_command(
        commands,
        "serve",
        ("homing.commands.serving", "run"),
        "Run the gateway, the API, the callback receiver and the loops.",
    )
    server.add_argument(
        "--only",
        type=parts,
        action="append",
        metavar="PART",
        help="run only receiver (the callbacks), api (with the gateway) or loops; repeatable (default: all)",
    )
    schema = plain_command(
        commands, "migrate", ("homing.commands.migrate", "run"), "Create the database tables, or update them."
    )
    once = plain_command(
        commands, "reconcile", ("homing.commands.reconcile", "run"), "Poll the provider about due tasks until stopped."
    )
    once.add_argument("--once", action="store_true", help="poll what is due now, print the counts, and end")
    once.add_argument("--discover", action="store_true", help="adopt unknown tasks from the provider's list")
    once.add_argument("--kind", help="with --discover: only this kind (default: all)")
    show = plain_command(
        commands,
        "demo",
        ("homing.demo.run", "run"),
        "Run tasks through a sandbox full of faults and watch each finish.",
    )
    show.add_argument("--seed", type=int, default=7, help="the seed of the faults (default %(default)s)")
    show.add_argument("--tasks", type=count, default=40, help="how many tasks (default %(default)s)")
    show.add_argument("--port", type=port, default=0, help="the server's port (default: a free one)")
    show.add_argument("--keep-open", action="store_true", help="keep it running afterwards")
    check = plain_command(
        commands,
        "doctor",
        ("homing.commands.doctor", "run"),
        "Show the settings in force and check what follows from them.",
    )
    check.add_argument(
        "--live",
        action="store_true",
        help="also send one real task to Kling, and compare Kling with what Homing assumes",
    )
    check.add_argument(
        "--spend-at-most", type=units, metavar="UNITS", help="with --live: what the task may cost, such as 0.25"
    )
    check.add_argument("--yes", action="store_true", help="with --live: send the task without asking you")
    document = plain_command(
        commands,
        "openapi",
        ("homing.commands.documents", "openapi"),
        "Print the OpenAPI document of the API and the gateway.",
    )
    events = plain_command(
        commands,
        "asyncapi",
        ("homing.commands.documents", "asyncapi"),
        "Print the AsyncAPI document of the events.",
    )
    key = plain_command(commands, "key", run_key, "Generate a key for HOMING_API_KEYS.")
    for parser in (schema, once, show, check, document, events, key):
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    key.add_argument("name", nargs="?", default="me", help="the client's name (default %(default)s)")
    key.add_argument("--all-clients", action="store_true", help="give access to the tasks of all clients")


def run_key(args: Namespace) -> int:
    star = "*" if args.all_clients else ""
    key = secrets.token_urlsafe(KEY_BYTES)
    if args.json:
        print_json({"name": args.name, "all_clients": args.all_clients, "key": key})
    else:
        print_line(f"HOMING_API_KEYS={args.name}{star}:{key}")
    return 0
