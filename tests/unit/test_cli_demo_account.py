"""The demo's account: it finds what is lost, doubled or wrong, and says nothing else."""

from typing import Any

import pytest

from homing.demo.account import Account, Document, account, as_json
from homing.demo.screen import summary

URL = "http://127.0.0.1:1/results/{}.png"


def row(number: int, **told: Any) -> Document:
    """Make what Homing shows of an order that came home by callback."""
    shown: Document = {
        "id": f"hm{number}",
        "request": {"prompt": f"picture {number}"},
        "status": "succeeded",
        "provider_task_id": f"88{number}",
        "result": {"assets": [{"url": URL.format(number)}]},
        "home": {"learned_from": "callback", "trust": "signed"},
    }
    entries = told.pop("entries", [{"source": "submit", "trust": "provider"}])
    return {"task": shown | told, "entries": entries}


def truth(number: int, **told: Any) -> Document:
    """Make what the sandbox's ledger says of the same order."""
    shown: Document = {
        "id": f"88{number}",
        "prompt": f"picture {number}",
        "status": "succeed",
        "result_urls": [URL.format(number)],
        "callbacks": [],
    }
    return shown | told


def judge(rows: list[Document], tasks: list[Document], *, orders: int = 1, timed_out: bool = False) -> Account:
    return account(
        [f"picture {number}" for number in range(orders)],
        rows,
        {"deliveries": 5, "duplicates": 1},
        {"tasks": tasks, "requests": {"create": orders, "single": 1, "batch": 0, "picture": 9}},
        seconds=1.0,
        timed_out=timed_out,
    )


def test_orders_that_came_home_once_with_the_truth_are_clean() -> None:
    told = judge([row(0), row(1)], [truth(0), truth(1)], orders=2)
    assert told.clean
    assert told.came_home == {"callback": 2}
    assert as_json(told)["ok"] is True
    assert "lost 0, doubled 0, wrong 0" in "\n".join(summary(told))


def test_an_order_without_a_row_is_lost() -> None:
    told = judge([row(0)], [truth(0), truth(1)], orders=2)
    assert told.lost == ("picture 1",)
    assert not told.clean


def test_an_order_that_nobody_made_is_lost() -> None:
    assert judge([], []).lost == ("picture 0",)


@pytest.mark.parametrize("status", ["pending", "submitted", "processing", "expired", "rejected"])
def test_an_order_that_did_not_end_is_lost(status: str) -> None:
    told = judge([row(0, status=status)], [truth(0)])
    assert told.lost == ("picture 0",)
    assert not told.clean


def test_an_order_that_was_made_twice_is_doubled() -> None:
    told = judge([row(0)], [truth(0), truth(0, id="999")])
    assert told.doubled == ("picture 0",)
    assert not told.clean


def test_an_order_with_two_rows_is_doubled() -> None:
    assert judge([row(0), row(0, id="other")], [truth(0)]).doubled == ("picture 0",)


def test_a_refused_row_beside_the_one_that_was_sent_again_is_no_double() -> None:
    refused = row(0, id="other", status="rejected", provider_task_id=None, result={"assets": []}, home=None)
    assert judge([refused, row(0)], [truth(0)]).clean


@pytest.mark.parametrize(
    "told",
    [
        {"status": "failed", "result": {"assets": []}},
        {"result": {"assets": []}},
        {"result": {"assets": [{"url": "https://pictures.stranger.invalid/0.png"}]}},
        {"provider_task_id": "another"},
    ],
)
def test_a_row_that_differs_from_the_truth_is_wrong(told: Document) -> None:
    judged = judge([row(0, **told)], [truth(0)])
    assert judged.wrong == ("picture 0",)
    assert not judged.clean
    assert "picture 0" in "\n".join(summary(judged))


def test_a_final_row_of_a_task_that_nobody_made_is_wrong() -> None:
    assert judge([row(0)], []).wrong == ("picture 0",)


def test_a_task_whose_submit_was_never_answered_is_a_recovered_one() -> None:
    unanswered = row(0, entries=[{"source": "submit", "trust": "hint"}, {"source": "poll", "trust": "provider"}])
    told = judge([unanswered], [truth(0)])
    assert (told.came_home, told.recovered) == ({"callback": 1}, 1)


def test_a_run_that_ran_out_of_time_is_not_clean() -> None:
    assert not judge([row(0)], [truth(0)], timed_out=True).clean


def test_strangers_and_requests_are_counted() -> None:
    callbacks = [
        {"kind": "forged", "state": "refused", "attempts": [1]},
        {"kind": "replayed", "state": "delivered", "attempts": [1]},
        {"kind": "forged", "state": "waiting", "attempts": []},
        {"kind": "genuine", "state": "delivered", "attempts": [1]},
    ]
    told = judge([row(0)], [truth(0, callbacks=callbacks)])
    assert told.strangers == {"sent": 2, "refused": 1, "kept_as_hints": 1}
    assert told.requests == {"create": 1, "single": 1}
    assert told.requests_per_task == 2
