"""Terminal output of the commands: tables and lines for people, JSON for programs.

Texts come from providers and clients. Nothing in them is markup, and their control characters must not reach the
terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracker.model.untrusted import JsonValue

# The exit status of a command that Ctrl-C ended.
INTERRUPTED: Final = 130
# Characters to check beyond what JSON escapes: DEL, the C1 controls, and all non-ASCII characters.
_STEERING: Final = re.compile(r"[^\n -~]")
PIPED_WIDTH: Final = 220
STYLES: Final = {"succeeded": "green", "failed": "red", "rejected": "red", "expired": "yellow", "pending": "dim"}


def console(*, stderr: bool = False) -> Console:
    """Return a console on a stream. A pipe gets wide lines, so that nothing is cut."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, markup=False)


def print_json(value: JsonValue) -> None:
    """Print one JSON document."""
    sys.stdout.write(json_text(value, indent=2) + "\n")


def json_text(value: JsonValue, *, indent: int | None = None) -> str:
    """Return JSON with every character escaped that could control a terminal or change the text direction."""
    return _STEERING.sub(_escaped, json.dumps(value, indent=indent, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[JsonValue]], *, empty: str) -> None:
    """Print rows below their headings, or the sentence ``empty`` if there are none."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console().print(table)


def print_fields(fields: Iterable[tuple[str, JsonValue]]) -> None:
    """Print names and values, one pair per line. Empty values are left out."""
    pairs = [(name, cell(value)) for name, value in fields if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console().print(Text.assemble((f"{name:<{width}}  ", "dim"), value), soft_wrap=True)


def print_line(text: str) -> None:
    """Print one line for people."""
    console().print(Text(printable(text)), soft_wrap=True)


def complain(text: str) -> None:
    """Print one line on the error stream."""
    sys.stderr.write(f"homing: {printable(text)}\n")


def cell(value: JsonValue) -> Text:
    """Return a value as text for people, a status in its color."""
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    text = value if isinstance(value, str) else json_text(value)
    return Text(printable(text), style=STYLES.get(text, ""))


def printable(text: str) -> str:
    """Replace every character that could control a terminal."""
    return "".join(
        character if character.isprintable() else " " if character in "\r\n\t" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def ago(moment: JsonValue, now: datetime) -> str:
    """Return an ISO time relative to ``now``, such as ``3 min ago`` or ``in 20 s``, or an empty text for None."""
    if not isinstance(moment, str):
        return ""
    seconds = (now - datetime.fromisoformat(moment).astimezone(UTC)).total_seconds()
    distance = span(abs(seconds))
    return f"{distance} ago" if seconds >= 0 else f"in {distance}"


def span(seconds: float) -> str:
    """Format a duration in its largest sensible unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds)} s"
