"""Progress that may be recorded while only some events are delivered."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW
from tests.support.published_events import events_of
from tracker.delivery.progress import Progress
from tracker.model.sinks import Failure, ProgressUpdate

EVENTS = events_of(1, upto=5, first=11)


def a_failure(cursor: int, error: str = "no") -> Failure:
    return Failure(cursor=cursor, task_id=None, attempts=1, error=error, next_at=NOW)


def a_progress(upto: int = 15) -> Progress:
    progress = Progress(10, at=0.0)
    progress.take(EVENTS, upto=upto)
    return progress


def settled(progress: Progress) -> ProgressUpdate:
    now = progress.settled(failures=0, retry_at=None, off=False)
    progress.written(now, at=1.0)
    return now


def test_cursor_stops_before_first_open_event() -> None:
    progress = a_progress()
    assert progress.cursor == 10
    progress.deliver([11, 13], was_pending=False)
    assert (progress.cursor, [event.cursor for event in progress.passed_over()]) == (11, [12])
    progress.deliver([12, 14, 15], was_pending=False)
    assert (progress.cursor, progress.passed_over()) == (15, [])


def test_page_end_counts_beyond_last_event_of_sink() -> None:
    progress = a_progress(upto=99)
    progress.deliver(range(11, 16), was_pending=False)
    assert progress.cursor == 99


def test_failure_beyond_cursor_is_recorded_later() -> None:
    progress = a_progress()
    progress.fail(a_failure(11))
    progress.fail(a_failure(13))
    first = settled(progress)
    assert (first.cursor, [one.cursor for one in first.failed], first.error) == (11, [11], "no")
    progress.deliver([12], was_pending=False)
    second = settled(progress)
    assert (second.cursor, [one.cursor for one in second.failed], second.error) == (13, [13], "")


def test_pending_deliveries_are_recorded_without_cursor() -> None:
    progress = Progress(None, at=0.0)
    progress.deliver([11], was_pending=True)
    progress.fail(a_failure(13))
    progress.put_aside(EVENTS[3], until=NOW + timedelta(seconds=1), attempts=4)
    progress.drop(12)
    now = settled(progress)
    assert (now.cursor, now.delivered, now.delivered_count) == (None, (11, 12), 1)
    assert [(one.cursor, one.attempts, one.error) for one in now.failed] == [(13, 1, "no"), (14, 4, "")]
    assert not progress.unwritten


def test_result_during_write_is_kept_for_next_write() -> None:
    progress = a_progress()
    progress.deliver([11], was_pending=False)
    first = progress.settled(failures=0, retry_at=None, off=False)
    progress.deliver([12], was_pending=False)
    progress.written(first, at=1.0)
    assert (progress.delivered_count, progress.unwritten, settled(progress).cursor) == (1, True, 12)


@given(order=st.permutations(range(11, 16)), failing=st.sets(st.integers(11, 15)), stops=st.sets(st.integers(0, 4)))
def test_results_in_any_order_are_recorded_once(order: list[int], failing: set[int], stops: set[int]) -> None:
    progress = a_progress()
    written: list[ProgressUpdate] = []
    for place, cursor in enumerate(order):
        if cursor in failing:
            progress.fail(a_failure(cursor))
        else:
            progress.deliver([cursor], was_pending=False)
        if place in stops:
            written.append(settled(progress))
    written.append(settled(progress))
    cursors = [one.cursor for one in written]
    assert cursors == sorted(cursors, key=lambda cursor: cursor or 0)
    assert cursors[-1] == 15
    assert sum(one.delivered_count for one in written) == 5 - len(failing)
    assert sorted(failure.cursor for one in written for failure in one.failed) == sorted(failing)
    assert all(failure.cursor <= (one.cursor or 0) for one in written for failure in one.failed)
