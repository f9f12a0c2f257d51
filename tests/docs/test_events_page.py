"""The events page shows the real payloads and lists every event type."""

from tests.events_page import EXAMPLES, PAGE, SOURCE, SUCCEEDED, page, shown
from tracker.model.event import ALARM_SCHEMA, EVENT_TYPES, TASK_SCHEMA, attributes


def test_every_example_matches_the_code() -> None:
    text = PAGE.read_text()
    assert text == page(text), "run: python -m tests.events_page"
    assert sorted(shown(text)) == sorted(EXAMPLES)


def test_every_type_and_schema_is_on_the_page() -> None:
    text = PAGE.read_text()
    names = [*EVENT_TYPES, TASK_SCHEMA, ALARM_SCHEMA, *attributes(SUCCEEDED, SOURCE)]
    assert [name for name in names if f"`{name}`" not in text] == []
