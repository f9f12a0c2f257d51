"""Writes the table of tests at the end of docs/explanation/guarantees.md: run ``python -m tests.guarantees_page``."""

import re
from pathlib import Path
from typing import Final

from tests.guarantees import TESTS

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "explanation" / "guarantees.md"
MARK: Final = "<!-- made by tests/guarantees_page.py -->\n"
# A numbered statement begins a list entry: "- **1.1** …".
STATEMENT: Final = re.compile(r"^- \*\*(\d+\.\d+)\*\* ", re.MULTILINE)
HEAD: Final = "\n| Statement | Tests |\n| --- | --- |\n"


def prose(text: str) -> str:
    """Return the page without its table."""
    return text.partition(MARK)[0]


def statements(text: str) -> list[str]:
    """Return the numbers of the statements that the page makes, in its order."""
    return STATEMENT.findall(prose(text))


def page(text: str) -> str:
    """Return the page with its table as it has to be."""
    rows = [f"| {number} | {'<br>'.join(f'`{test}`' for test in tests)} |\n" for number, tests in TESTS.items()]
    return prose(text) + MARK + HEAD + "".join(rows)


def written_tests() -> set[str]:
    """Return the names of all tests that the folder has."""
    return {
        name
        for pattern in ("test_*.py", "*_suite.py")
        for file in (ROOT / "tests").rglob(pattern)
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
