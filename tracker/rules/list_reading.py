"""Decisions about reading a provider's list page by page, to answer many due tasks with few requests.

A list only answers tasks. It never decides that a task does not exist, and its order is not documented. So a reading
ends when the list brings too little, and batches poll the other tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.model.task import Report

# The most pages of one reading, and the most pages in a row that answer fewer tasks than a batch poll would.
PAGES: Final = 200
POOR_PAGES: Final = 10
# Homing sends a cursor back and remembers it during the reading.
LONGEST_CURSOR: Final = 4_096
# How much older than the oldest due task a page must be. The provider's clock and Homing's differ.
MARGIN: Final = timedelta(minutes=5)
# The pause after a reading that answered many tasks, and the first and the longest pause after any other reading.
SHORT_PAUSE: Final = timedelta(seconds=10)
FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading of a list: how far it is, and what it brought.

    ``left`` is how many due tasks the list may still answer, ``oldest_at`` the creation of the oldest of them.
    ``cursor`` is the next page, and ``cursors`` are those of the pages before. ``poor`` counts the latest pages in a
    row that were not worth their requests.
    """

    left: int
    oldest_at: datetime
    cursor: str | None = None
    cursors: frozenset[str | None] = frozenset()
    pages: int = 0
    poor: int = 0
    answered: int = 0
    ended: bool = False


def after_page(
    reading: Reading, listed: Sequence[Report], following: str | None, *, answered: int, worth: int
) -> Reading:
    """Return the reading after one more page.

    ``following`` is the cursor of the next page. A page is worth its request if it answers ``worth`` tasks, as many as
    a batch poll would.
    """
    cursors = reading.cursors | {reading.cursor}
    poor = reading.poor + 1 if answered < worth else 0
    after = replace(
        reading,
        left=reading.left - answered,
        cursor=following,
        cursors=cursors,
        pages=reading.pages + 1,
        poor=poor,
        answered=reading.answered + answered,
    )
    # A provider may repeat its cursors for ever.
    at_end = following is None or following in cursors or len(following) > LONGEST_CURSOR
    useless = after.left <= worth or poor >= POOR_PAGES or after.pages >= PAGES
    return replace(after, ended=at_end or useless or _is_older(listed, reading.oldest_at))


def pause_after(reading: Reading, before: timedelta, *, worth: int) -> timedelta:
    """Return how long to leave a list alone after a reading. ``before`` is the pause after the reading before it."""
    if reading.pages and reading.answered >= reading.pages * worth:
        return SHORT_PAUSE
    return min(max(2 * before, FIRST_PAUSE), LONGEST_PAUSE)


def answering(listed: Iterable[Report]) -> frozenset[str]:
    """Return the provider IDs of a page that answer their tasks.

    If a page has an ID twice with different reports, none of them counts. A poll of that task decides.
    """
    first: dict[str, Report] = {}
    doubtful: set[str] = set()
    for report in listed:
        task_id = report.provider_task_id
        if task_id is not None and first.setdefault(task_id, report) != report:
            doubtful.add(task_id)
    return frozenset(first.keys() - doubtful)


def _is_older(listed: Sequence[Report], oldest_at: datetime) -> bool:
    """Return whether the page, and so the rest of the list, is older than every due task.

    Only a page that is visibly newest first shows that.
    """
    created = [report.created_at for report in listed if report.created_at is not None]
    newest_first = len(created) > 1 and created == sorted(created, reverse=True) and created[0] > created[-1]
    return newest_first and created[0] < oldest_at - MARGIN
