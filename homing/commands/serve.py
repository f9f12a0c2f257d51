"""`homing serve | migrate | reconcile | demo | doctor | openapi | asyncapi | key`: with a life of their own."""

import asyncio
import secrets
import sys
from argparse import Namespace
from functools import partial
from itertools import chain
from typing import Final, TextIO

import uvloop

from homing.commands import doctor
from homing.commands.arguments import Commands, count, parts, plain_command, port
from homing.commands.migrate import migrate
from homing.commands.reconcile import reconcile
from homing.demo.run import SEED, TASKS
from homing.demo.run import run as demo
from homing.serve import ALL, serve
from homing.server.logs import set_up_logs
from homing.server.process import favour_latency
from homing.terminal import print_json
from tracker.api.app import endpoints
from tracker.api.asyncapi import describe_events
from tracker.api.http.openapi import describe

KEY_BYTES: Final = 32


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    house = plain_command(commands, "serve", run_serve, "Serve the gateway, the API, the callbacks and the loops.")
    house.add_argument(
        "--only",
        type=parts,
        action="append",
        metavar="PART",
        help="only a part, receiver (the callbacks), api (with the gateway) or loops; repeatable (default: all)",
    )
    schema = plain_command(commands, "migrate", run_migrate, "Make the database's tables, or bring them up to date.")
    once = plain_command(commands, "reconcile", run_reconcile, "Ask the provider about due tasks, until stopped.")
    once.add_argument("--once", action="store_true", help="ask about what is due now, print what came of it, and end")
    once.add_argument(
        "--discover", action="store_true", help="adopt tasks of the provider's list that nobody told us of"
    )
    once.add_argument("--kind", help="with --discover: which kind (default: those that we submit)")
    show = plain_command(commands, "demo", run_demo, "Send tasks through a sandbox full of faults; see each come home.")
    show.add_argument("--seed", type=int, default=SEED, help="the seed of the faults (default %(default)s)")
    show.add_argument("--tasks", type=count, default=TASKS, help="how many tasks (default %(default)s)")
    show.add_argument("--port", type=port, default=0, help="the server's port (default: a free one)")
    show.add_argument("--keep-open", action="store_true", help="leave it running afterwards, to look at")
    check = plain_command(commands, "doctor", run_doctor, "Show the settings in force and check what they lead to.")
    document = plain_command(commands, "openapi", run_openapi, "Print the OpenAPI document of the API and the gateway.")
    events = plain_command(commands, "asyncapi", run_asyncapi, "Print the AsyncAPI document of the events.")
    key = plain_command(commands, "key", run_key, "Make a key for HOMING_API_KEYS.")
    for parser in (schema, once, show, check, document, events, key):
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    key.add_argument("name", nargs="?", default="me", help="the client's name (default %(default)s)")
    key.add_argument("--sees-all", action="store_true", help="let it see every client's tasks")


def run_serve(args: Namespace) -> int:
    settings = args.source.read()
    set_up_logs(settings.log_level)
    only = frozenset(chain.from_iterable(args.only)) if args.only else ALL
    # Where events go to the standard output, nothing else does.
    aside = any(spec.scheme == "stdout" for spec in settings.sinks)
    to = sys.stderr if aside else sys.stdout
    return uvloop.run(serve(settings, announce=partial(_started, to=to), parts=only, show_key=to.isatty()))


def run_migrate(args: Namespace) -> int:
    settings = args.source.read()
    set_up_logs("error")
    return asyncio.run(migrate(settings, args))


def run_reconcile(args: Namespace) -> int:
    settings = args.source.read()
    set_up_logs(settings.log_level)
    return asyncio.run(reconcile(settings, args))


def run_demo(args: Namespace) -> int:
    set_up_logs("error")
    return asyncio.run(demo(args))


def run_doctor(args: Namespace) -> int:
    set_up_logs("error")
    return asyncio.run(doctor.run(args.source.load(), args.source.strays(), as_json=args.json))


def run_openapi(_: Namespace) -> int:
    print_json(describe(endpoints()))
    return 0


def run_asyncapi(_: Namespace) -> int:
    print_json(describe_events())
    return 0


def run_key(args: Namespace) -> int:
    star = "*" if args.sees_all else ""
    key = secrets.token_urlsafe(KEY_BYTES)
    if args.json:
        print_json({"name": args.name, "sees_all": args.sees_all, "key": key})
    else:
        _say(f"HOMING_API_KEYS={args.name}{star}:{key}")
    return 0


def _started(line: str, *, to: TextIO) -> None:
    favour_latency()
    to.write(line + "\n")
    to.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
