"""``python -m bench``: measure, print a table on the error stream, and one line of JSON on standard output."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Final

from bench import machine, postgres
from bench.databases import Databases, SqliteFiles
from bench.parts import PARTS, Bench
from bench.results import Row, as_json, show
from bench.rounds import Effort, say

SQLITE: Final = SqliteFiles.name
POSTGRES: Final = postgres.PostgresDatabases.name
DATABASES: Final = (SQLITE, POSTGRES)
FAILED: Final = 1
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and return 0, or 1 if something could not be measured (its keys are then missing)."""
    args = _parser().parse_args(arguments)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _interrupt)
    began = perf_counter()
    try:
        rows, failed = _run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    if not args.json:
        show(rows, title=machine.described(), caption=f"measured in {(perf_counter() - began) / 60:.1f} minutes")
    for name, trouble in failed.items():
        say(f"{name} could not be measured: {trouble}")
    sys.stdout.write(json.dumps(as_json(rows)) + "\n")
    return FAILED if failed else 0


def _run(args: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Return the measured rows, and why each failed part failed."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    effort = Effort(rounds=args.rounds, seconds=args.seconds)
    server: list[Databases] = []
    with ExitStack() as stack:
        if POSTGRES in args.databases:
            with _noted(POSTGRES, failed):
                server.append(stack.enter_context(postgres.running()))
        for name in args.only:
            # The files of a part are removed before the next part begins.
            folder = tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True)
            with _noted(name, failed), folder as path:
                files: list[Databases] = [SqliteFiles(Path(path))] if SQLITE in args.databases else []
                bench = Bench(folder=Path(path), databases=[*files, *server], effort=effort, soak=args.soak)
                rows.extend(PARTS[name](bench))
    return rows, failed


@contextmanager
def _noted(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Print how long a part took. If it fails, record why and continue with the other parts."""
    say(f"{name} …")
    began = perf_counter()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the other parts run after any error
        failed[name] = f"{type(error).__name__}: {error}"
    say(f"{name}: {failed.get(name, 'done')}, after {perf_counter() - began:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure Homing. docs/reference/benchmarks.md explains how."
    )
    parser.add_argument(
        "--only", type=_choice(PARTS), default=list(PARTS), help=f"the parts to run, from: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--databases",
        type=_choice(DATABASES),
        default=list(DATABASES),
        help=f"the databases to measure, from: {', '.join(DATABASES)}",
    )
    parser.add_argument(
        "--rounds", type=int, default=Effort().rounds, help="the number of rounds (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=Effort().seconds, help="the seconds of each turn (default %(default)s)"
    )
    parser.add_argument("--soak", action="store_true", help="measure the memory over a million callbacks")
    parser.add_argument("--json", action="store_true", help="print no table")
    return parser


def _choice(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of a comma-separated choice of ``known`` names. An empty text means all of them."""

    def read(text: str) -> list[str]:
        chosen = {name.strip() for name in text.split(",") if name.strip()}
        if unknown := chosen.difference(known):
            raise argparse.ArgumentTypeError(f"{min(unknown)!r} is unknown. Choose from {', '.join(known)}")
        return [name for name in known if not chosen or name in chosen]

    return read


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
