"""What Replicate's clients see of a task: the prediction in its shape, in its words only."""

from dataclasses import replace

import pytest

from tests.support.builders import NOW, a_task
from tracker.delivery.sinks.callback_filter import CallbackFilter
from tracker.model.event import PublishedEvent
from tracker.model.task import Fact, Precedence, Status, Task
from tracker.model.untrusted import JsonValue
from tracker.providers.replicate_gateway import created, page, prediction

VERSION = "a" * 64
PLACE = Precedence(rank=5, success=True)


def a_prediction(status: Status = Status.SUCCEEDED, **facts: JsonValue) -> Task:
    task = a_task(status=status, finished_at=NOW, submitted_at=NOW)
    place = PLACE if status is Status.SUCCEEDED else Precedence(rank=5)
    known = {name: Fact(precedence=place, value=value) for name, value in facts.items()}
    return replace(task, provider="replicate", kind="predictions", facts=known, precedence=place)


@pytest.mark.parametrize(
    ("status", "word", "error"),
    [
        (Status.PENDING, "starting", None),
        (Status.SUBMITTED, "starting", None),
        (Status.PROCESSING, "processing", None),
        (Status.SUCCEEDED, "succeeded", None),
        (Status.FAILED, "failed", "the prediction failed"),
        (Status.REJECTED, "failed", "the provider refused this prediction"),
        (Status.EXPIRED, "failed", "no result came before the deadline"),
    ],
)
def test_status_is_a_word_of_replicate(status: Status, word: str, error: str | None) -> None:
    shown = prediction(a_prediction(status))

    assert (shown["status"], shown["error"]) == (word, error)


@pytest.mark.parametrize("word", ["canceled", "aborted"])
def test_canceled_prediction_is_canceled(word: str) -> None:
    shown = prediction(a_prediction(Status.FAILED, message=word))

    assert (shown["status"], shown["error"]) == ("canceled", None)


@pytest.mark.parametrize(
    ("model", "named", "version"),
    [
        ("a/b", "a/b", ""),
        (f"a/b:{VERSION}", "a/b", VERSION),
        (VERSION, VERSION, VERSION),
        ("deployments/a/b", "a/b", ""),
    ],
)
def test_model_and_version_are_texts(model: str, named: str, version: str) -> None:
    shown = prediction(replace(a_prediction(), model=model))

    assert (shown["model"], shown["version"]) == (named, version)


def test_output_and_metrics_are_those_of_the_prediction() -> None:
    shown = prediction(a_prediction(output=["hel", "lo"], price={"metrics": {"predict_time": 2}}))

    assert (shown["output"], shown["metrics"]) == (["hel", "lo"], {"predict_time": 2})


def test_unfinished_prediction_is_starting_in_the_reply_to_its_create() -> None:
    running = replace(a_prediction(Status.PROCESSING), finished_at=None)

    assert created(running, base_url="https://homing.example/replicate")["status"] == "starting"
    assert created(a_prediction(), base_url="https://homing.example/replicate")["status"] == "succeeded"


def test_page_names_the_next_one_by_its_address() -> None:
    shown = page([a_prediction()], base_url="https://homing.example/replicate", following="cursor=7")

    assert shown["next"] == "https://homing.example/replicate/v1/predictions?cursor=7"


@pytest.mark.parametrize(
    ("events", "while_running", "at_the_end"),
    [(None, True, True), (["completed"], False, True), (["start"], True, False), ([], False, False)],
)
def test_callbacks_follow_the_events_of_the_client(
    events: list[JsonValue] | None, *, while_running: bool, at_the_end: bool
) -> None:
    request: dict[str, JsonValue] = {} if events is None else {"webhook_events_filter": events}

    def takes(status: Status) -> bool:
        task = replace(a_prediction(status), request=request, client_callback_url="https://client.example/")
        name = f"homing.task.{status.value}"
        return CallbackFilter().takes(PublishedEvent(cursor=1, type=name, sequence=1, at=NOW, task=task))

    assert (takes(Status.PROCESSING), takes(Status.SUCCEEDED)) == (while_running, at_the_end)
