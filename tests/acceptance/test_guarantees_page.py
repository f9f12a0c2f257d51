"""docs/guarantees.md names its proofs; a proof that is renamed or gone must not be promised any more."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_proof_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    written = {
        name
        for pattern in ("test_*.py", "*_suite.py")
        for file in (ROOT / "tests").rglob(pattern)
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 40
    assert sorted(named - written) == []
