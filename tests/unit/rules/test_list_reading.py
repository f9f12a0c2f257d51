"""Rules for reading a provider's list: when a reading ends, and which entries answer their tasks."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from tests.support.builders import NOW, a_report
from tracker.model.task import Report, Status
from tracker.rules.list_reading import (
    FIRST_PAUSE,
    LONGEST_CURSOR,
    LONGEST_PAUSE,
    MARGIN,
    PAGES,
    POOR_PAGES,
    SHORT_PAUSE,
    Reading,
    after_page,
    answering,
    pause_after,
)

BATCH = 20
MANY = 10_000


def begun(left: int = MANY, *, pages: int = 0, poor: int = 0) -> Reading:
    return Reading(left=left, oldest_at=NOW, pages=pages, poor=poor)


def listed(*minutes: float) -> Sequence[Report]:
    """Return the entries of a page that were created so many minutes after the oldest due task."""
    return [
        a_report(provider_task_id=f"p-{number}", created_at=NOW + timedelta(minutes=each))
        for number, each in enumerate(minutes)
    ]


def read(
    reading: Reading, *, following: str | None = "next", answered: int = 100, minutes: Sequence[float] = ()
) -> Reading:
    return after_page(reading, listed(*minutes), following, answered=answered, worth=BATCH)


def test_page_with_answers_continues_at_its_cursor() -> None:
    after = read(begun())

    assert not after.ended
    assert (after.cursor, after.left, after.pages, after.answered) == ("next", MANY - 100, 1, 100)


@pytest.mark.parametrize(
    ("reading", "following", "answered"),
    [
        (begun(), None, 100),
        (begun(), "x" * (LONGEST_CURSOR + 1), 100),
        (begun(left=100 + BATCH), "next", 100),
        (begun(poor=POOR_PAGES - 1), "next", BATCH - 1),
        (begun(pages=PAGES - 1), "next", 100),
    ],
    ids=["last page", "huge cursor", "few left", "poor pages", "many pages"],
)
def test_reading_ends_when_the_list_helps_no_more(reading: Reading, following: str | None, answered: int) -> None:
    assert read(reading, following=following, answered=answered).ended


def test_good_page_forgives_the_poor_ones_before() -> None:
    after = read(begun(poor=POOR_PAGES - 1), answered=BATCH)

    assert (after.poor, after.ended) == (0, False)


def test_repeated_cursor_ends_the_reading() -> None:
    reading = begun()
    for cursor in ("1", "2", "3"):
        reading = read(reading, following=cursor)
        assert not reading.ended

    assert read(reading, following="1").ended
    assert read(reading, following="3").ended


def test_page_older_than_all_due_tasks_ends_the_reading() -> None:
    margin = MARGIN / timedelta(minutes=1)

    assert read(begun(), minutes=(-margin - 1, -margin - 2)).ended
    assert not read(begun(), minutes=(-margin + 1, -margin - 2)).ended


@pytest.mark.parametrize("minutes", [(-20, -10), (-10,), (-10, -10), (-10, -30, -20), ()])
def test_old_page_of_unclear_order_ends_nothing(minutes: Sequence[float]) -> None:
    assert not read(begun(), minutes=minutes).ended


def test_pause_is_short_after_many_answers_and_grows_otherwise() -> None:
    good, poor = read(begun(), answered=BATCH), read(begun(), answered=BATCH - 1)

    assert pause_after(good, LONGEST_PAUSE, worth=BATCH) == SHORT_PAUSE
    assert pause_after(poor, timedelta(), worth=BATCH) == FIRST_PAUSE
    assert pause_after(poor, FIRST_PAUSE, worth=BATCH) == 2 * FIRST_PAUSE
    assert pause_after(poor, LONGEST_PAUSE, worth=BATCH) == LONGEST_PAUSE
    assert pause_after(begun(), timedelta(), worth=BATCH) == FIRST_PAUSE


def test_contradictory_entries_of_one_task_answer_nothing() -> None:
    one, running = a_report(provider_task_id="1"), a_report(Status.PROCESSING, provider_task_id="2")
    failed, nameless = a_report(Status.FAILED, provider_task_id="2"), a_report(provider_task_id=None)

    assert answering([one, running, one, failed, nameless, running]) == {"1"}
