"""A sink filters events by type, provider, kind, client and tag."""

import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_task
from tests.support.published_events import a_success, an_alarm, an_event
from tracker.model.event import ALARM_TYPES, EVENT_TYPES, TASK_TYPES
from tracker.model.event_filter import EVERYTHING, EventFilter, event_types, read_filter
from tracker.model.task import Alarm, Status

EVENTS = [
    an_event(a_success(client="studio", tags=("paid", "first"))),
    an_event(a_task(status=Status.FAILED, client="other", kind="videos/text2video")),
    an_event(a_success(provider="another"), "corrected"),
    an_alarm(Alarm.ORPHAN),
]


def taken(**options: Any) -> list[int]:
    """Return the indexes of the events that a filter takes."""
    chosen = read_filter({name: [value] if isinstance(value, str) else value for name, value in options.items()})
    return [number for number, event in enumerate(EVENTS) if chosen.takes(event)]


def test_empty_filter_takes_all_events() -> None:
    assert taken() == [0, 1, 2, 3]
    assert all(EVERYTHING.takes(event) for event in EVENTS)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"type": "succeeded"}, [0]),
        ({"type": "homing.task.succeeded"}, [0]),
        ({"type": ["succeeded", "failed"]}, [0, 1]),
        ({"type": "homing.alarm.*"}, [3]),
        ({"type": "*ed"}, [0, 1, 2]),
        ({"provider": "kling"}, [0, 1, 3]),
        ({"kind": "videos/*"}, [1]),
        ({"kind": ["images/omni-?mage", "videos/text2video"]}, [0, 1, 2]),
        ({"kind": "images"}, []),
        ({"client": ["studio", "other"]}, [0, 1, 2]),
        ({"client": "other"}, [1]),
        ({"tag": "paid"}, [0]),
        ({"tag": ["unpaid", "first"]}, [0]),
        ({"type": "succeeded", "client": "other"}, []),
        ({"type": "succeeded", "client": "studio", "tag": "paid", "kind": "images/*", "provider": "kling"}, [0]),
    ],
)
def test_filter_ors_values_and_ands_fields(options: dict[str, Any], numbers: list[int]) -> None:
    assert taken(**options) == numbers


@given(st.lists(st.sampled_from(EVENT_TYPES), min_size=1, max_size=3))
def test_full_type_name_matches_itself(names: list[str]) -> None:
    assert read_filter({"type": names}) == EventFilter(types=frozenset(names))


def test_pattern_matches_all_its_types() -> None:
    assert set(event_types("*")) == set(EVENT_TYPES)
    assert set(event_types("homing.task.*")) == set(TASK_TYPES)
    assert set(event_types("homing.alarm.*")) == set(ALARM_TYPES)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("succeded", "Did you mean succeeded?"),
        ("homing.task.suceeded", "Did you mean homing.task.succeeded?"),
        ("homing.alarm.orphans", "Did you mean homing.alarm.orphan?"),
        ("pending", "type= matches no event type"),
        ("Succeeded", "Did you mean succeeded?"),
        ("qqqq*", "Write one such as succeeded"),
    ],
)
def test_unknown_type_is_refused_with_nearest_one(written: str, hint: str) -> None:
    with pytest.raises(ValueError, match="type= matches no event type") as caught:
        event_types(written)
    assert hint in str(caught.value)
    assert "qqqq" not in str(caught.value)


@pytest.mark.parametrize("field", ["type", "provider", "kind", "client", "tag"])
def test_empty_condition_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}= is empty"):
        read_filter({field: ["succeeded", " "]})


def test_patterns_of_requests_are_not_cached_forever() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            assert len(event_types("*[!0-9]" * 25 + f"*[!{number}]")) > 0
        # Python's own pattern cache is bounded and cleared here. Any other cache would grow by 2.7 kB per pattern.
        re.purge()
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
