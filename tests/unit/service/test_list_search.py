"""The search for lost submissions in the provider's list, over scripted answers."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from tests.support.builders import NOW, a_report, a_task
from tests.support.decisions import POLICY
from tracker.model.task import Status, Task
from tracker.providers.base import Account, Busy, Found, ListOutcome, Page, PollOutcome, Unknown
from tracker.providers.kling import Kling
from tracker.service.callback_urls import CallbackUrls
from tracker.service.list_search import ListSearch

ACCOUNT = Account(name="default", provider=Kling(), base_url="https://provider.example.com", credential=None)
URLS = CallbackUrls(
    store=cast("Any", None),
    public_url="https://homing.example.com",
    secrets=[b"made-up secret of this test"],
    clock=lambda: NOW,
    random_bytes=bytes,
)


def entry(task: Task, **changes: Any) -> Found:
    report = a_report(Status.PROCESSING, provider_task_id=f"at provider {task.id}", created_at=NOW)
    return Found(report=report, body=b"{}", callback_url=URLS.of_task(task) or "", **changes)


@dataclass
class Queries:
    pages: dict[str | None, ListOutcome]
    clock_at: timedelta = timedelta(0)
    cursors: list[str | None] = field(default_factory=list)
    queried: list[str] = field(default_factory=list)

    async def list_page(self, _account: Account, _kind: str, cursor: str | None) -> ListOutcome:
        self.cursors.append(cursor)
        return self.pages[cursor]

    async def query(self, _account: Account, _kind: str, task_id: str) -> PollOutcome:
        self.queried.append(task_id)
        # Unlike the list, this answer does not repeat the callback URL.
        return Found(report=a_report(Status.SUCCEEDED, provider_task_id=task_id), body=b"{}")


def search_over(queries: Queries) -> ListSearch:
    return ListSearch(cast("Any", queries), URLS, POLICY, lambda: NOW + queries.clock_at)


async def test_found_task_has_the_url_of_the_list_and_the_state_of_the_query() -> None:
    task = a_task(1)
    queries = Queries({None: Page(found=[entry(task)])})

    found, requests = await search_over(queries).search(task, ACCOUNT)

    assert isinstance(found, Found)
    assert (found.callback_url, found.report.status, requests) == (URLS.of_task(task), Status.SUCCEEDED, 2)


async def test_later_page_is_read_once_and_only_where_needed() -> None:
    first, second, absent = (a_task(number) for number in (1, 2, 3))
    queries = Queries({None: Page(found=[entry(first)], next="2"), "2": Page(found=[entry(second)])})
    search = search_over(queries)

    results = [await search.search(task, ACCOUNT) for task in (first, second, absent, first)]

    assert [(found is not None, requests) for found, requests in results] == [
        (True, 2),
        (True, 2),
        (False, 0),
        (True, 1),
    ]
    assert queries.cursors == [None, "2"]


@pytest.mark.parametrize(
    ("failure", "is_returned"),
    [(Busy(http_status=429, code=429, message="later", retry_after=None), True), (Unknown(why="HTTP 502"), False)],
)
async def test_failed_page_is_not_read_again_by_the_others_at_once(
    failure: Busy | Unknown, *, is_returned: bool
) -> None:
    task, other = a_task(1), a_task(2)
    queries = Queries({None: failure})
    search = search_over(queries)

    assert await search.search(task, ACCOUNT) == (failure if is_returned else None, 1)
    assert await search.search(other, ACCOUNT) == (None, 0)

    queries.clock_at, queries.pages[None] = POLICY.absence_gap, Page(found=[entry(other)])
    found, requests = await search.search(other, ACCOUNT)
    assert (isinstance(found, Found), requests) == (True, 2)
