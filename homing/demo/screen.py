"""What the demo shows while it runs: a live picture on a terminal, plain lines in a pipe, nothing for programs."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from homing.demo.account import Account, Document
from homing.terminal import printable

LINES: Final = 8
COLUMNS: Final = 20
MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "": ("·", "dim"),
    "pending": ("?", "yellow"),
    "submitted": ("○", "cyan"),
    "processing": ("◐", "cyan"),
    "succeeded": ("●", "green"),
    "failed": ("✕", "red"),
    "rejected": ("-", "red"),
    "expired": ("!", "red"),
}


class Screen(Protocol):
    """Where a run is shown."""

    def show(self, tasks: Sequence[Document], seconds: float) -> None:
        """Show how far the tasks are; ``tasks`` in the order in which they were sent."""

    def say(self, line: str) -> None:
        """Say something beside the tasks."""


class Silent:
    """For --json: only the account is printed, at the end."""

    def show(self, tasks: Sequence[Document], seconds: float) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Say nothing."""


class Lines:
    """One line for each task that comes home."""

    def __init__(self) -> None:
        self._home: set[str] = set()

    def show(self, tasks: Sequence[Document], seconds: float) -> None:
        for task in tasks:
            if task["finished_at"] and task["id"] not in self._home:
                self._home.add(task["id"])
                self.say(f"{seconds:5.1f} s  {_arrival(task)}  ({len(self._home)} home)")

    def say(self, line: str) -> None:
        sys.stdout.write(printable(line) + "\n")
        sys.stdout.flush()


class Picture:
    """A mark for each task and the latest arrivals, drawn in place."""

    def __init__(self, live: Live, total: int) -> None:
        self._live = live
        self._total = total
        self._home: set[str] = set()
        self._latest: deque[str] = deque(maxlen=LINES)

    def show(self, tasks: Sequence[Document], seconds: float) -> None:
        for task in tasks:
            if task["finished_at"] and task["id"] not in self._home:
                self._home.add(task["id"])
                self._latest.append(f"{seconds:5.1f} s  {_arrival(task)}")
        self._live.update(Group(self._marks(tasks), Text(self._head(seconds)), *map(Text, self._latest)))

    def say(self, line: str) -> None:
        self._live.console.print(Text(printable(line)))

    def _head(self, seconds: float) -> str:
        return f"\n{len(self._home)} of {self._total} home after {seconds:.0f} s\n"

    def _marks(self, tasks: Sequence[Document]) -> Table:
        marks = [MARKS[task["status"]] for task in tasks] + [MARKS[""]] * (self._total - len(tasks))
        grid = Table.grid(padding=(0, 1))
        for start in range(0, len(marks), COLUMNS):
            grid.add_row(*(Text(mark, style=style) for mark, style in marks[start : start + COLUMNS]))
        return grid


@contextmanager
def screen(total: int, *, as_json: bool) -> Iterator[Screen]:
    """Yield the screen that suits where the output goes."""
    if as_json:
        yield Silent()
    elif sys.stdout.isatty():
        with Live(console=Console(highlight=False), refresh_per_second=8) as live:
            yield Picture(live, total)
    else:
        yield Lines()


def summary(told: Account) -> list[str]:
    """Return the account in lines."""
    sources = sorted(told.came_home.items(), key=lambda at: -at[1])
    home = ", ".join(f"{number} by {name}" for name, number in sources)
    strangers, requests = told.strangers, told.requests
    asked = ", ".join(f"{number} {name}" for name, number in requests.items())
    lines = [
        f"came home     {sum(told.came_home.values())} of {told.orders} in {told.seconds:.1f} s",
        f"first report  {home or 'none'}",
        f"recovered     {told.recovered} of them after a submit whose answer was lost",
        f"callbacks     {told.deliveries} heard, {told.duplicates} duplicates absorbed",
        (
            f"strangers     {strangers['sent']} forged or replayed: {strangers['refused']} refused, "
            f"{strangers['kept_as_hints']} kept as hints that move nothing"
        ),
        f"asked         {told.requests_per_task:.1f} provider requests per task ({asked})",
        f"against the sandbox's ledger: lost {len(told.lost)}, doubled {len(told.doubled)}, wrong {len(told.wrong)}",
    ]
    if told.suspects:
        lines.append(f"look at       {', '.join(told.suspects)}")
    if told.timed_out:
        lines.append("the time limit passed before everything was quiet")
    return lines


def _arrival(task: Document) -> str:
    home = task["home"]
    how = f", first reported by {home['learned_from']}" if home else ""
    return f"{task['request']['prompt']}  {task['status']}{how}"
