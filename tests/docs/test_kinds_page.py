"""The page of kinds is made from the code."""

from tests.kinds_page import PAGE, page


def test_kinds_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.kinds_page"
