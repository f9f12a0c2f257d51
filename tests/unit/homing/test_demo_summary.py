"""The demo summary reports exactly the lost, doubled and wrong tasks."""

from typing import Any

import pytest

from homing.demo.summary import Document, lines, summarize

SUBMIT = {"source": "submit", "trust": "provider", "verdict": "applied", "status": "submitted"}
CALLBACK = {"source": "callback", "trust": "signed", "verdict": "applied", "status": "succeeded"}
POLL = {"source": "poll", "trust": "provider", "verdict": "completed", "status": "succeeded"}
URL = "http://127.0.0.1:1/results/{}.png"


def row(number: int, **changes: Any) -> Document:
    """Return a task as Homing shows it after a callback finished it."""
    shown: Document = {
        "id": f"hm{number}",
        "request": {"prompt": f"task {number}"},
        "status": "succeeded",
        "provider_task_id": f"88{number}",
        "result": {"assets": [{"url": URL.format(number)}]},
    }
    return {"task": shown | changes, "entries": changes.pop("entries", [SUBMIT, CALLBACK])}


def truth(number: int, **changes: Any) -> Document:
    """Return the same task as the ledger of the sandbox shows it."""
    shown: Document = {
        "id": f"88{number}",
        "prompt": f"task {number}",
        "status": "succeed",
        "result_urls": [URL.format(number)],
        "callbacks": [],
    }
    return shown | changes


def judge(rows: list[Document], tasks: list[Document], *, orders: int = 1, timed_out: bool = False) -> Document:
    return summarize(
        [f"task {number}" for number in range(orders)],
        rows,
        {"callbacks": 5, "duplicate_callbacks": 1},
        {"tasks": tasks, "requests": {"create": orders, "single": 1, "batch": 0, "result": 9}},
        seconds=1.0,
        timed_out=timed_out,
    )


def faults(summary: Document) -> dict[str, int]:
    """Return the count of each fault in a summary."""
    assert summary["ok"] is not bool(summary["suspects"])
    return {fault: summary[fault] for fault in ("lost", "doubled", "wrong") if summary[fault]}


def test_orders_finished_once_as_reported_are_clean() -> None:
    summary = judge([row(0), row(1)], [truth(0), truth(1)], orders=2)

    assert summary["ok"] is True
    assert summary["first_reported_by"] == {"callback": 2}
    assert "lost 0, doubled 0, wrong 0" in "\n".join(lines(summary))


def test_order_without_row_is_lost() -> None:
    summary = judge([row(0)], [truth(0), truth(1)], orders=2)

    assert faults(summary) == {"lost": 1}
    assert summary["suspects"] == ["task 1"]


def test_order_never_made_at_provider_is_lost() -> None:
    assert faults(judge([], [])) == {"lost": 1}


@pytest.mark.parametrize("status", ["pending", "submitted", "processing", "expired", "rejected"])
def test_order_that_did_not_end_is_lost(status: str) -> None:
    assert faults(judge([row(0, status=status)], [truth(0)])) == {"lost": 1}


def test_order_made_twice_is_doubled() -> None:
    assert faults(judge([row(0)], [truth(0), truth(0, id="999")])) == {"doubled": 1}


def test_order_with_two_rows_is_doubled() -> None:
    assert faults(judge([row(0), row(0, id="other")], [truth(0)])) == {"doubled": 1}


def test_rejected_row_beside_resubmission_is_not_doubled() -> None:
    refused = row(0, id="other", status="rejected", provider_task_id=None, result={"assets": []})
    assert judge([refused, row(0)], [truth(0)])["ok"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "failed", "result": {"assets": []}},
        {"result": {"assets": []}},
        {"result": {"assets": [{"url": "https://pictures.other.invalid/0.png"}]}},
        {"provider_task_id": "another"},
    ],
)
def test_row_that_differs_from_ledger_is_wrong(changes: Document) -> None:
    summary = judge([row(0, **changes)], [truth(0)])

    assert faults(summary) == {"wrong": 1}
    assert "task 0" in "\n".join(lines(summary))


def test_final_row_of_task_never_made_is_wrong() -> None:
    assert faults(judge([row(0)], [])) == {"wrong": 1}


def test_task_with_unanswered_submission_is_recovered() -> None:
    unanswered = row(0, entries=[SUBMIT | {"trust": "unverified", "verdict": "unanswered"}, CALLBACK])

    assert judge([unanswered], [truth(0)])["recovered_submits"] == 1
    assert judge([row(0)], [truth(0)])["recovered_submits"] == 0


def test_confirming_poll_is_not_first_report() -> None:
    confirmed = row(0, entries=[SUBMIT, CALLBACK, POLL])

    assert judge([confirmed], [truth(0)])["first_reported_by"] == {"callback": 1}


def test_run_that_timed_out_is_not_clean() -> None:
    assert not judge([row(0)], [truth(0)], timed_out=True)["ok"]


def test_forgeries_and_requests_are_counted() -> None:
    callbacks = [
        {"kind": "forged", "state": "refused", "attempts": [1]},
        {"kind": "replayed", "state": "delivered", "attempts": [1]},
        {"kind": "forged", "state": "waiting", "attempts": []},
        {"kind": "genuine", "state": "delivered", "attempts": [1]},
    ]

    summary = judge([row(0)], [truth(0, callbacks=callbacks)])

    assert summary["forgeries"] == {"sent": 2, "refused": 1, "unverified": 1}
    assert summary["provider_requests"] == {"create": 1, "single": 1}
    assert summary["provider_requests_per_task"] == 2
