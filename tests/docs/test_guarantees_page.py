"""Every guarantee in docs/explanation/guarantees.md has an existing test."""

import re

from tests.guarantees import TESTS
from tests.guarantees_page import PAGE, page, prose, statements, written_tests


def test_guarantees_table_is_up_to_date() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "run: python -m tests.guarantees_page"


def test_every_guarantee_has_tests() -> None:
    assert statements(PAGE.read_text()) == list(TESTS)
    assert [number for number, tests in TESTS.items() if not tests] == []


def test_every_named_test_exists() -> None:
    named = {test for tests in TESTS.values() for test in tests}

    assert sorted(named - written_tests()) == []


def test_guarantees_prose_names_no_test() -> None:
    assert re.findall(r"\btest_\w+", prose(PAGE.read_text())) == []


def test_stale_table_and_missing_guarantee_are_found() -> None:
    text = PAGE.read_text()
    first, *others = TESTS

    assert page(text.replace(TESTS[first][0], "test_gone")) == page(text)
    assert statements(text.replace(f"- **{first}** ", "- ")) == others
