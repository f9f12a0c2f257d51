import json
from dataclasses import replace

import pytest

from homing.sandbox.listing import cursor_page, numbered_page
from homing.sandbox.products import OMNI_IMAGE
from homing.sandbox.refusals import Refusal
from homing.sandbox.submission import Submission
from homing.sandbox.task import FAILED, SUBMITTED, SUCCEED, State, Task

DAY = 24 * 3600 * 1000
NOW = 100 * DAY
ASKED = Submission(
    kind=OMNI_IMAGE,
    prompt="a cat",
    slots=1,
    series=False,
    watermark=False,
    callback_url=None,
    external_id=None,
)


def a_task(index: int, status: str = SUBMITTED, age: int = 0) -> Task:
    return Task(
        index=index,
        id=str(index),
        submission=replace(ASKED),
        account="api-key-1",
        origin="",
        created_at=NOW - age,
        fate=SUCCEED,
        run_time=1.0,
        states=[State(status=status, updated_at=NOW)],
    )


TASKS = [a_task(index, (SUBMITTED, SUCCEED, FAILED)[index % 3]) for index in range(7)]


def walk(**body: object) -> list[list[str]]:
    pages, cursor = [], ""
    while True:
        page = cursor_page(TASKS, json.dumps({**body, "cursor": cursor}).encode(), NOW)
        pages.append([task.id for task in page.tasks])
        cursor = page.next_cursor
        if not cursor:
            return pages


def test_numbered_pages_are_newest_first() -> None:
    assert [task.id for task in numbered_page(TASKS, {"pageNum": "2", "pageSize": "3"})] == ["3", "2", "1"]
    assert len(numbered_page(TASKS, {})) == 7
    assert numbered_page(TASKS, {"pageNum": "1000"}) == []


@pytest.mark.parametrize(
    "query",
    [{"pageNum": "0"}, {"pageNum": "1001"}, {"pageSize": "501"}, {"pageSize": "x"}, {"pageSize": "²"}],
)
def test_page_out_of_bounds_is_1201(query: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        numbered_page(TASKS, query)
    assert refused.value.code == 1201


def test_cursor_visits_each_task_once() -> None:
    assert walk(limit=3) == [["6", "5", "4"], ["3", "2", "1"], ["0"]]


def test_exactly_full_page_is_last() -> None:
    assert walk(limit=7) == [["6", "5", "4", "3", "2", "1", "0"]]


def test_filters_select_by_new_status_and_product() -> None:
    assert walk(filters=[{"key": "status", "values": ["succeeded", "failed"]}]) == [["5", "4", "2", "1"]]
    assert walk(filters=[{"key": "product_type", "values": ["video"]}]) == [[]]


@pytest.mark.parametrize("start", [NOW - DAY, str(NOW - DAY)])
def test_times_may_be_text_or_numbers(start: object) -> None:
    tasks = [a_task(0, age=2 * DAY), a_task(1), a_task(2, age=40 * DAY)]
    page = cursor_page(tasks, json.dumps({"start_time": start}).encode(), NOW)
    assert [task.id for task in page.tasks] == ["1"]
    assert [task.id for task in cursor_page(tasks, b"", NOW).tasks] == ["1", "0"]


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 501},
        {"limit": True},
        {"cursor": "nonsense"},
        {"start_time": "soon"},
        {"filters": {"key": "status"}},
        {"filters": [{"key": "size", "values": []}]},
        {"filters": [{"key": "status", "values": ["succeed"]}]},
        {"filters": [{"key": ["status"], "values": 1}]},
    ],
)
def test_invalid_list_request_is_1201(body: dict[str, object]) -> None:
    with pytest.raises(Refusal) as refused:
        cursor_page(TASKS, json.dumps(body).encode(), NOW)
    assert refused.value.code == 1201
