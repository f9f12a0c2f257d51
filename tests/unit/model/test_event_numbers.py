"""Tests of event numbers: they always grow across ranges, and consumers can store them exactly."""

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_task
from tests.support.published_events import an_event
from tracker.model.event import LONG_DIGITS, RANGE_EPOCH_MILLISECONDS, RANGE_SHIFT, sequence_of, written_sequence

EXACT_IN_JAVASCRIPT = 2**53
MOMENTS = st.integers(1_790_000_000_000, int(datetime(2080, 1, 1, tzinfo=UTC).timestamp()) * 1000)


def first_of(milliseconds: int) -> int:
    return (milliseconds - RANGE_EPOCH_MILLISECONDS) << RANGE_SHIFT


@given(st.lists(MOMENTS, unique=True, max_size=5), st.lists(st.integers(1, 999_999), min_size=1, max_size=5))
def test_sequence_grows_across_ranges(starts: list[int], versions: list[int]) -> None:
    cursors = [1, 10**9, *(first_of(start) + 1 for start in sorted(starts))]
    # After each restore of the database, the task has its own series of versions.
    numbers = [
        [sequence_of(cursor + step, version) for step, version in enumerate(sorted(set(versions)))]
        for cursor in cursors
    ]
    later = [numbers[0], *numbers[2:]]

    for before, after in pairwise(later):
        assert max(before) < min(after)
        assert max(map(written_sequence, before)) < min(map(written_sequence, after))
    assert all(list(map(written_sequence, each)) == sorted(map(written_sequence, each)) for each in numbers)


@given(MOMENTS)
def test_event_numbers_fit_their_readers(start: int) -> None:
    cursor = first_of(start) + 1

    assert cursor < EXACT_IN_JAVASCRIPT
    assert sequence_of(cursor, 999_999) < 2**63
    assert len(written_sequence(sequence_of(cursor, 3))) == LONG_DIGITS


def test_event_of_lost_version_gets_another_id() -> None:
    lost = an_event(a_task(version=3), "failed", cursor=17)
    new = an_event(a_task(version=3), "succeeded", cursor=first_of(1_800_000_000_000) + 1)

    assert lost.id == f"{lost.subject}-3"
    assert new.id != lost.id
