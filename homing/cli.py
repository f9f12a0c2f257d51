"""The command `homing`. Exit status: 0 success, 1 failure, 2 wrong usage or settings (with one line), 130 Ctrl-C."""

import asyncio
import atexit
import gc
import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

from homing.commands import operate, serve, sinks, submit, tasks, watch
from homing.commands.arguments import ENV_FILE, USAGE, Parser, Source
from homing.commands.client import connect
from homing.sandbox import command as sandbox
from homing.server.logs import set_up_logs
from homing.terminal import INTERRUPTED, complain, print_line
from tracker.errors import HomingError, SettingsError

FAILED: Final = 1
GROUPS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "Try and run": ("demo", "sandbox", "serve", "reconcile", "migrate", "doctor"),
        "Tasks": ("submit", "expect", "adopt", "tasks", "why"),
        "Events and sinks": ("events", "sinks", "deliveries", "replay"),
        "Operate": ("stats", "orphans", "callback-url", "key", "audit", "helper-calls"),
        "Documents": ("openapi", "asyncapi"),
    }
)


def main(
    argv: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE
) -> int:
    """Run one command and return its exit status. Expected errors print one line and no traceback.

    ``argv`` and ``environ`` are the process's own unless a caller passes others.
    """
    args = build_parser().parse_args(argv, Namespace(source=Source(environ=environ, env_file=env_file)))
    if argv is None and only_reads(args):
        _collect_no_garbage()
    try:
        return asyncio.run(_over_api(args)) if "data" in args else int(args.run(args))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output closed it. The interpreter must not report that when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SettingsError as error:
        complain(error.detail)
        return USAGE
    except HomingError as error:
        complain(error.detail)
        return FAILED


def build_parser() -> ArgumentParser:
    """Declare every command."""
    parser: ArgumentParser = Parser(
        prog="homing",
        usage="homing COMMAND ...",
        description="Receive the callbacks of image and video APIs, and track every task.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    # The groups below replace argparse's single long list.
    commands = parser.add_subparsers(prog="homing", metavar="COMMAND", required=True, help=SUPPRESS)
    serve.add(commands)
    sandbox.add_parser(commands)
    submit.add(commands)
    tasks.add(commands)
    watch.add(commands)
    sinks.add(commands)
    operate.add(commands)
    parser.epilog = _overview({name: each.description or "" for name, each in commands.choices.items()})
    return parser


class _Version(Action):
    """Print the version. The metadata is read only then, because that takes longer than declaring all commands."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - as above

        print_line(f"homing {version('homing')}")
        sys.exit(0)


def _overview(sentences: Mapping[str, str]) -> str:
    """Return the help text's groups of commands, each with its sentence."""
    width = max(map(len, sentences)) + 2
    lines: list[str] = []
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:{width}}{sentences[name]}" for name in names), ""]
    return "\n".join([*lines, "homing COMMAND --help explains each."])


def only_reads(args: Namespace) -> bool:
    """Return whether a command only reads the database and then ends."""
    return getattr(args, "reads", False) and not args.loops


def _collect_no_garbage() -> None:
    """Turn off garbage collection. This process is short, and collecting takes a third of its time."""
    gc.disable()
    # Python collects once more as it ends, but not what is frozen.
    atexit.register(gc.freeze)


async def _over_api(args: Namespace) -> int:
    settings = args.source.read()
    set_up_logs("error")
    async with connect(settings, loops=args.loops, create=args.creates(args), reads=only_reads(args)) as api:
        return int(await args.data(args, api))
