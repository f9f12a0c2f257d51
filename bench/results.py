"""The results: one row per number with its bounds, and a table on the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

TABLE_WIDTH: Final = 150
COLUMNS: Final = ("key", "what", "median", "lowest … highest", "must", "goal", "reached", "how")


class Broken(Exception):
    """Something could not be measured, or a result is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number: its key in the JSON line, what it is, and the values of its rounds.

    ``must`` and ``goal`` are lower bounds if ``more`` is better, and upper bounds otherwise. None means no bound.
    """

    key: str
    what: str
    rounds: Sequence[float]
    unit: str = ""
    must: float | None = None
    goal: float | None = None
    more: bool = False
    note: str = ""

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)

    @property
    def verdict(self) -> str:
        if self.must is None:
            return ""
        if self.goal is not None and self._reaches(self.goal):
            return "goal"
        return "must" if self._reaches(self.must) else "MISSED"

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.more else self.value <= bound


def show(rows: Iterable[Row], *, title: str, caption: str) -> None:
    """Print the table on the error stream. Standard output is for the line of JSON."""
    table = Table(
        "key", "what", "median", "lowest … highest", "must", "goal", "reached", "how", title=title, caption=caption
    )
    for row in rows:
        spread = f"{_number(min(row.rounds))} … {_number(max(row.rounds))}" if len(row.rounds) > 1 else ""
        bounds = [_number(bound) if bound is not None else "" for bound in (row.must, row.goal)]
        shown = f"{_number(row.value)} {row.unit}".strip()
        table.add_row(row.key, row.what, shown, spread, *bounds, row.verdict, row.note)
    Console(stderr=True, width=TABLE_WIDTH).print(table)


def as_json(rows: Iterable[Row]) -> dict[str, float]:
    return {row.key: round(row.value, 4) for row in rows}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are shown
