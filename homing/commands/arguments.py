"""Functions that declare commands with argparse and report a wrong argument in one line.

argparse is enough for these commands. It adds no dependency and gives each of them `--help`.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from homing.terminal import complain
from tracker import settings_syntax
from tracker.errors import SettingsError
from tracker.model.servers import Part

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from homing.commands.client import ApiClient
    from tracker.settings import CheckedSettings, Settings

USAGE: Final = 2
ENV_FILE: Final = Path(".env")

# A command that uses the API and returns the exit status. The other commands define how they run themselves.
Data: TypeAlias = "Callable[[Namespace, ApiClient], Awaitable[int]]"
Run = Callable[[Namespace], int]
Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a command reads its settings: ``environ`` (None: the process's own) over ``env_file``."""

    environ: Mapping[str, str] | None
    env_file: Path | None

    def read(self) -> "Settings":
        """Read the settings, and warn about HOMING_ variables that are not settings. Raises: SettingsError."""
        checked = self.check()
        if checked.errors:
            raise SettingsError(checked.errors[0])
        for sentence in checked.unknown:
            complain(sentence)
        return checked.settings

    def check(self) -> "CheckedSettings":
        """Read the settings, and leave out invalid ones instead of raising."""
        from tracker.settings import check_settings  # noqa: PLC0415 - `homing --help` needs none

        return check_settings(self.environ, self.env_file)


class Parser(ArgumentParser):
    """A parser that writes each error as one line to the error stream."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see `{self.prog} --help`)")
        sys.exit(USAGE)


def data_command(
    commands: Commands,
    name: str,
    run: Data,
    sentence: str,
    *,
    loops: bool = False,
    verb: bool = False,
    reads: bool = False,
    creates: Callable[[Namespace], bool] = lambda _: False,
) -> ArgumentParser:
    """Declare a command that uses the API.

    ``loops`` runs the loops in this process if no server runs, for commands that wait for a change. A command that only
    ``reads`` opens the database read-only and needs no server. Only a command that ``creates`` something may create a
    SQLite database. For other commands a new one would be empty. A ``verb`` is a subcommand: its default values must
    not overwrite options given to its parent.
    """
    parser = commands.add_parser(name, help=sentence, description=sentence)
    default = SUPPRESS if verb else False
    parser.add_argument("--json", action="store_true", default=default, help="print one JSON document")
    parser.set_defaults(data=run, loops=loops, reads=reads, creates=creates)
    return parser


def plain_command(commands: Commands, name: str, run: Run | tuple[str, str], sentence: str) -> ArgumentParser:
    """Declare a command that does not use the API.

    ``run`` is a function, or the names of its module and function. That module is imported only if the command runs.
    """
    parser = commands.add_parser(name, help=sentence, description=sentence)
    if isinstance(run, tuple):
        parser.set_defaults(run=_imported, later=run)
    else:
        parser.set_defaults(run=run)
    return parser


def _imported(args: Namespace) -> int:
    module, function = args.later
    return int(getattr(import_module(module), function)(args))


def duration(text: str) -> timedelta:
    """Read a duration argument."""
    try:
        return settings_syntax.duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def moment(text: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    """Read a time with an offset, or a duration before now, and return it in ISO 8601."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is not None and at.tzinfo is not None:
        return at.isoformat()
    try:
        return (clock() - settings_syntax.duration(text)).isoformat()
    except ValueError:
        raise ArgumentTypeError(
            "the value is not valid. Write a time such as 2026-11-23T00:00:00Z, or a duration before now such as 1h30m"
        ) from None


def port(text: str) -> int:
    """Read a port argument."""
    try:
        return settings_syntax.port(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """Read a whole number above zero."""
    try:
        return settings_syntax.count(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def entry(text: str) -> tuple[str, str]:
    """Read an entry of the metadata, as KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ArgumentTypeError("the value is not valid. Write KEY=VALUE, such as order=17")
    return key, value


def cursor(text: str) -> int:
    """Read the cursor of an event, a whole number. 0 means the beginning."""
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError("the value is not valid. Write a whole number, 0 for the beginning")
    return int(text)


def parts(text: str) -> tuple[Part, ...]:
    """Read the names of roles, separated by commas."""
    known = [part.value for part in Part]
    named = settings_syntax.entries(text)
    if not named or not set(named) <= set(known):
        raise ArgumentTypeError(f"choose from {', '.join(known)}")
    return tuple(Part(name) for name in named)


def always(_: Namespace) -> bool:
    """Return True: the command always creates something."""
    return True


class Usage(SettingsError):
    """The arguments are invalid. The exit status is 2, as for invalid settings."""
