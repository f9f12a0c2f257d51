"""What may be written down of events that are partly told."""

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


def a_ledger(upto: int = 15) -> Progress:
    ledger = Progress(10, at=0.0)
    ledger.take(EVENTS, upto=upto)
    return ledger


def settled(ledger: Progress) -> ProgressUpdate:
    now = ledger.settled(failures=0, retry_at=None, off=False)
    ledger.written(now, at=1.0)
    return now


def test_cursor_stops_before_first_open_event() -> None:
    ledger = a_ledger()
    assert ledger.cursor == 10
    ledger.deliver([11, 13], was_pending=False)
    assert (ledger.cursor, [told.cursor for told in ledger.passed_over()]) == (11, [12])
    ledger.deliver([12, 14, 15], was_pending=False)
    assert (ledger.cursor, ledger.passed_over()) == (15, [])


def test_page_end_counts_beyond_last_event_of_sink() -> None:
    ledger = a_ledger(upto=99)
    ledger.deliver(range(11, 16), was_pending=False)
    assert ledger.cursor == 99


def test_failure_beyond_cursor_is_recorded_later() -> None:
    ledger = a_ledger()
    ledger.fail(a_failure(11))
    ledger.fail(a_failure(13))
    first = settled(ledger)
    assert (first.cursor, [one.cursor for one in first.failed], first.error) == (11, [11], "no")
    ledger.deliver([12], was_pending=False)
    second = settled(ledger)
    assert (second.cursor, [one.cursor for one in second.failed], second.error) == (13, [13], "")


def test_pending_deliveries_are_recorded_without_cursor() -> None:
    ledger = Progress(None, at=0.0)
    ledger.deliver([11], was_pending=True)
    ledger.fail(a_failure(13))
    ledger.put_aside(EVENTS[3], until=NOW + timedelta(seconds=1), attempts=4)
    ledger.drop(12)
    now = settled(ledger)
    assert (now.cursor, now.delivered, now.delivered_count) == (None, (11, 12), 1)
    assert [(one.cursor, one.attempts, one.error) for one in now.failed] == [(13, 1, "no"), (14, 4, "")]
    assert not ledger.unwritten


def test_result_during_write_is_kept_for_next_write() -> None:
    ledger = a_ledger()
    ledger.deliver([11], was_pending=False)
    first = ledger.settled(failures=0, retry_at=None, off=False)
    ledger.deliver([12], was_pending=False)
    ledger.written(first, at=1.0)
    assert (ledger.delivered_count, ledger.unwritten, settled(ledger).cursor) == (1, True, 12)


@given(order=st.permutations(range(11, 16)), failing=st.sets(st.integers(11, 15)), stops=st.sets(st.integers(0, 4)))
def test_results_in_any_order_are_recorded_once(order: list[int], failing: set[int], stops: set[int]) -> None:
    ledger = a_ledger()
    written: list[ProgressUpdate] = []
    for place, cursor in enumerate(order):
        if cursor in failing:
            ledger.fail(a_failure(cursor))
        else:
            ledger.deliver([cursor], was_pending=False)
        if place in stops:
            written.append(settled(ledger))
    written.append(settled(ledger))
    cursors = [one.cursor for one in written]
    assert cursors == sorted(cursors, key=lambda cursor: cursor or 0)
    assert cursors[-1] == 15
    assert sum(one.delivered_count for one in written) == 5 - len(failing)
    assert sorted(failure.cursor for one in written for failure in one.failed) == sorted(failing)
    assert all(failure.cursor <= (one.cursor or 0) for one in written for failure in one.failed)
