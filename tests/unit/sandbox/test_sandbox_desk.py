import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from homing.sandbox import SandboxSettings
from homing.sandbox.callback_factory import UNKNOWN_STATUSES, CallbackFactory
from homing.sandbox.faults import Faults
from homing.sandbox.outgoing_callback import OutgoingCallback
from homing.sandbox.products import OMNI_IMAGE
from homing.sandbox.submission import Submission
from homing.sandbox.task import FAILED, PROCESSING, SUBMITTED, SUCCEED, State, Task

TARGET = "http://127.0.0.1:9/callbacks/kling/token-of-this-task"
SECRET = "whsec_bWFkZSB1cCBmb3IgdGhlc2UgdGVzdHM="
URL = "http://sandbox.invalid/results/1-0.png"


def a_task(index: int = 0, *, end: str = SUCCEED) -> Task:
    last = State(status=end, updated_at=30, results=(URL,) if end == SUCCEED else ())
    return Task(
        index=index,
        id=str(1234567 + index),
        submission=Submission(
            kind=OMNI_IMAGE,
            prompt="a cat",
            slots=1,
            series=False,
            watermark=False,
            callback_url=TARGET,
            external_id=f"external-{index}",
        ),
        account="api-key-1",
        origin="http://sandbox.invalid",
        created_at=10,
        fate=end,
        run_time=1.0,
        states=[State(status=SUBMITTED, updated_at=10), State(status=PROCESSING, updated_at=20), last],
    )


def desk(*struck: str, **settings: Any) -> CallbackFactory:
    chosen = SandboxSettings(**{"webhook_secrets": (SECRET,), **settings})
    return CallbackFactory(chosen, Faults(chosen.seed, dict.fromkeys(struck, 1.0)))


def ending(writer: CallbackFactory, task: Task | None = None) -> list[OutgoingCallback]:
    return writer.callbacks(task or a_task(), TARGET)


def whole_life(writer: CallbackFactory, task: Task) -> list[OutgoingCallback]:
    letters = []
    for length in range(1, len(task.states) + 1):
        letters += writer.callbacks(replace(task, states=task.states[:length]), TARGET)
    return letters


def kinds(letters: list[OutgoingCallback]) -> list[str]:
    return [letter.kind for letter in letters]


def body(letter: OutgoingCallback) -> dict[str, Any]:
    return dict(json.loads(letter.body))


def tasks(end: str = SUCCEED) -> Iterator[Task]:
    return (a_task(index, end=end) for index in count())


def test_state_change_sends_one_true_callback() -> None:
    letters = whole_life(desk(), a_task())
    assert kinds(letters) == ["genuine"] * 3
    assert [body(letter)["task_status"] for letter in letters] == [SUBMITTED, PROCESSING, SUCCEED]
    assert body(letters[-1])["task_result"] == {"images": [{"index": 0, "url": URL}]}
    assert body(letters[0])["task_info"] == {"external_task_id": "external-0"}
    assert len({letter.webhook_id for letter in letters}) == 3


def test_only_final_state_is_sent_without_intermediate() -> None:
    assert [letter.status for letter in whole_life(desk(intermediate=False), a_task())] == [SUCCEED]


def test_three_shapes_differ_as_documented() -> None:
    flat, new, enveloped = (body(ending(desk(callback_shape=shape))[0]) for shape in ("legacy", "new", "enveloped"))
    assert (flat["task_id"], flat["task_status"]) == ("1234567", "succeed")
    assert (new["id"], new["status"], new["outputs"]) == (
        "1234567",
        "succeeded",
        [{"type": "image", "url": URL}],
    )
    assert (enveloped["code"], enveloped["data"]) == (0, flat)


def test_reseller_callback_has_no_external_id() -> None:
    for shape in ("legacy", "new", "enveloped"):
        assert b"external-0" not in ending(desk(reseller=True, callback_shape=shape))[0].body


def test_lost_callback_is_recorded_as_lost() -> None:
    assert kinds(whole_life(desk("callback_lost"), a_task())) == ["lost"] * 3


def test_late_callback_has_delay() -> None:
    assert [(letter.kind, letter.delay) for letter in ending(desk("callback_late", late_by=4))] == [("late", 4)]


def test_duplicate_callback_has_same_body_and_same_or_new_id() -> None:
    seen = set()
    for task in (a_task(index) for index in range(20)):
        first, second = ending(desk("callback_doubled"), task)
        assert (first.body, second.kind) == (second.body, "duplicate")
        seen.add(first.webhook_id == second.webhook_id)
    assert seen == {True, False}


def test_out_of_order_sends_processing_after_final() -> None:
    letters = whole_life(desk("callback_out_of_order"), a_task())
    assert [(letter.kind, letter.status) for letter in letters] == [
        ("genuine", SUBMITTED),
        ("genuine", SUCCEED),
        ("out_of_order", PROCESSING),
    ]
    assert body(letters[2])["updated_at"] < body(letters[1])["updated_at"]


@pytest.mark.parametrize(("end", "lie"), [(SUCCEED, FAILED), (FAILED, SUCCEED)])
def test_contradiction_is_signed_and_around_true_report(end: str, lie: str) -> None:
    seen = set()
    for task in (a_task(index, end=end) for index in range(20)):
        letters = ending(desk("callback_contradictory"), task)
        assert {letter.seal for letter in letters} == {"genuine"}
        assert {letter.kind: letter.status for letter in letters} == {"genuine": end, "contradictory": lie}
        times = [body(letter)["updated_at"] for letter in letters]
        assert times == sorted(set(times))
        seen.add(kinds(letters)[0])
    assert seen == {"genuine", "contradictory"}


def test_contradiction_comes_with_true_report() -> None:
    garbling = ("callback_lost", "callback_unknown_status", "callback_empty_result", "callback_contradictory")
    letters = ending(desk(*garbling))
    (truth,) = (letter for letter in letters if letter.kind == "genuine")
    assert body(truth)["task_status"] == SUCCEED
    assert body(truth)["task_result"] != {}


def test_unknown_status_is_undocumented() -> None:
    for shape in ("legacy", "new", "enveloped"):
        (letter,) = ending(desk("callback_unknown_status", callback_shape=shape))
        data = body(letter).get("data", body(letter))
        assert data.get("task_status", data.get("status")) in UNKNOWN_STATUSES
        assert letter.kind == "unknown_status"


def test_empty_result_is_success_without_assets() -> None:
    (letter,) = ending(desk("callback_empty_result"))
    assert (body(letter)["task_status"], body(letter)["task_result"]) == (SUCCEED, {})


def test_unsigned_final_follows_signed_callbacks() -> None:
    assert [letter.seal for letter in whole_life(desk("callback_unsigned"), a_task())] == [
        "genuine",
        "genuine",
        "none",
    ]


@pytest.mark.parametrize("end", [SUCCEED, FAILED])
def test_forgery_is_false_and_never_validly_signed(end: str) -> None:
    variants = set()
    for _, task in zip(range(60), tasks(end), strict=False):
        (forged,) = (letter for letter in whole_life(desk("callback_forged"), task) if letter.kind == "forged")
        variants.add(forged.variant)
        assert forged.seal != "genuine"
        assert forged.status == (FAILED if end == SUCCEED else SUCCEED)
        assert forged.webhook_id == ending(desk(), task)[0].webhook_id
        assert (forged.target != TARGET) == (forged.variant == "wrong_url")
    assert variants == {"wrong_key", "none", "altered", "malformed", "wrong_url", "other_id"}


def test_forgery_without_secret_guesses_urls_and_ids() -> None:
    for _, task in zip(range(40), tasks(), strict=False):
        letters = whole_life(desk("callback_forged", webhook_secrets=()), task)
        (forged,) = (letter for letter in letters if letter.kind == "forged")
        own = (forged.target, body(forged)["task_id"], body(forged)["task_info"]["external_task_id"])
        assert forged.variant in {"wrong_url", "other_id"}
        assert own != (TARGET, task.id, task.external_id)


def test_task_that_skips_processing_is_forged_too() -> None:
    for _, task in zip(range(10), tasks(), strict=False):
        skipped = replace(task, states=[task.states[0], task.states[-1]])
        assert kinds(whole_life(desk("callback_forged"), skipped)).count("forged") == 1
