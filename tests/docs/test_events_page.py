"""The page about events shows what is really sent, and names every type there is."""

from tests.events_page import EXAMPLES, PAGE, SOURCE, SUCCEEDED, page, shown
from tracker.model.event import ALARM_SCHEMA, TASK_SCHEMA, TYPES, attributes


def test_every_example_is_what_the_code_makes() -> None:
    text = PAGE.read_text()
    assert text == page(text), "run: python -m tests.events_page"
    assert sorted(shown(text)) == sorted(EXAMPLES)


def test_every_type_attribute_and_schema_stands_on_the_page() -> None:
    text = PAGE.read_text()
    names = [*TYPES, TASK_SCHEMA, ALARM_SCHEMA, *attributes(SUCCEEDED, SOURCE)]
    assert [name for name in names if f"`{name}`" not in text] == []
