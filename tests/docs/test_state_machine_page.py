"""The state machine page matches the transition tables."""

from tests.state_machine_page import PAGE, page
from tracker.model.task import Status


def test_state_machine_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.state_machine_page"


def test_state_machine_page_names_every_status() -> None:
    assert all(f"| `{status}` |" in PAGE.read_text() for status in Status)
