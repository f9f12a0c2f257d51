"""Tests of the responses that a Kling client gets from Homing, for reports in either dialect."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tracker.model import facts
from tracker.model.task import Observation, Report, Source, Status, Task, Trust
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.kling import Kling
from tracker.providers.kling_gateway import (
    error_envelope,
    legacy_created,
    legacy_envelope,
    legacy_price,
    legacy_task,
    new_price,
    new_task,
)
from tracker.rules import lifecycle

SAMPLES = Path(__file__).parents[2] / "samples" / "kling" / "callback" / "succeeded"
NOW = datetime(2026, 6, 10, 8, 40, 0, 123_000, tzinfo=UTC)
CDN = "https://p1-kling.klingai.com/kcdn/kling-result/"
UNITS: JsonObject = {"charge_type": "unit", "package_type": "image", "amount": "16"}

TASK = Task(
    id="hm01k9tsv5me8kq3x1w7c0b2n4ra",
    provider="kling",
    kind="images/omni-image",
    account="default",
    client="local",
    created_at=NOW,
    updated_at=NOW,
    deadline_at=NOW + timedelta(days=1),
    origin="submit",
    external_id="order-1138",
    sent_external_id="hm01k9tsv5me8kq3x1w7c0b2n4ra",
    request={"prompt": "x", "watermark_info": {"enabled": True}},
)


def observed(report: Report, task: Task = TASK) -> Task:
    observation = Observation(source=Source.POLL, trust=Trust.PROVIDER, report=report, at=NOW + timedelta(seconds=40))
    return lifecycle.advance(task, observation, threshold=Trust.SIGNED).task


def sample_task(name: str) -> Task:
    return observed(Kling().read_callback((SAMPLES / f"{name}.json").read_bytes()))


def test_create_response_shows_task_and_external_id() -> None:
    assert legacy_created(TASK) == {
        "task_id": TASK.id,
        "task_info": {"external_task_id": "order-1138"},
        "task_status": "submitted",
        "created_at": 1781080800123,
        "updated_at": 1781080800123,
    }


@pytest.mark.parametrize(
    ("status", "legacy", "new", "message"),
    [
        (Status.PENDING, "submitted", "submitted", ""),
        (Status.SUBMITTED, "submitted", "submitted", ""),
        (Status.PROCESSING, "processing", "processing", ""),
        (Status.SUCCEEDED, "succeed", "succeeded", ""),
        (Status.FAILED, "failed", "failed", ""),
        (Status.REJECTED, "failed", "failed", "the provider refused this task"),
        (Status.EXPIRED, "failed", "failed", "no result came before the deadline"),
    ],
)
def test_every_status_has_a_provider_status(status: Status, legacy: str, new: str, message: str) -> None:
    task = replace(TASK, status=status)
    in_legacy, in_new = legacy_task(task), new_task(task)
    assert (in_legacy["task_status"], in_legacy["task_status_msg"], in_legacy["task_result"]) == (legacy, message, {})
    assert (in_new["status"], in_new["message"], in_new["outputs"], in_new["billing"]) == (new, message, [], [])


@pytest.mark.parametrize("dialect", ["legacy-with-watermark", "new"])
def test_result_in_either_dialect_is_shown_as_legacy(dialect: str) -> None:
    shown = legacy_task(sample_task(dialect))
    assert shown["task_id"] == TASK.id
    assert shown["task_status"] == "succeed"
    assert shown["task_result"] == {
        "images": [
            {
                "index": 0,
                "url": CDN + "image-0.png?x-kcdn-pid=112452&ss=sig",
                "watermark_url": CDN + "image-0-watermark.png",
            },
            {"index": 1, "url": CDN + "image-1.png?x-kcdn-pid=112452&ss=sig"},
        ],
        "result_type": "single",
    }
    assert shown["final_unit_deduction"] == "16"
    assert shown["watermark_info"] == {"enabled": True}


@pytest.mark.parametrize("dialect", ["legacy-with-watermark", "new"])
def test_result_in_either_dialect_is_shown_as_new(dialect: str) -> None:
    shown = new_task(sample_task(dialect))
    assert (shown["id"], shown["status"], shown["external_id"]) == (TASK.id, "succeeded", "order-1138")
    assert shown["outputs"] == [
        {
            "type": "image",
            "url": CDN + "image-0.png?x-kcdn-pid=112452&ss=sig",
            "watermark_url": CDN + "image-0-watermark.png",
        },
        {"type": "image", "url": CDN + "image-1.png?x-kcdn-pid=112452&ss=sig"},
    ]
    assert shown["billing"] == [UNITS]


RESULTS: Mapping[str, JsonObject] = {
    "images/omni-image": {
        "series_images": [{"index": 0, "url": "https://x/0"}, {"index": 1, "url": "https://x/1"}],
        "result_type": "series",
    },
    "images/generations": {"images": [{"index": 0, "url": "https://x/0"}, {"index": 0, "url": "https://x/1"}]},
    "videos/text2video": {"videos": [{"id": "v", "url": "https://x/", "duration": "3.041"}]},
    "audio/video-to-audio": {
        "videos": [{"id": "v", "url": "https://x/", "duration": "5"}],
        "audios": [
            {"id": "a", "url_mp3": "https://x/1", "duration_mp3": "5", "url_wav": "https://x/2", "duration_wav": "5"}
        ],
    },
    "general/custom-voices": {"voices": [{"voice_id": "845", "trial_url": "https://x/"}]},
    "general/advanced-custom-elements": {"elements": [{"element_id": 829836802793406551, "status": "succeed"}]},
    "general/ai-multi-shot": {
        "images": [
            {"index": 0, "url_1": "https://x/1", "url_2": "https://x/2", "url_3": "https://x/3"},
            {"index": 1, "url_1": "https://x/4", "url_2": "https://x/5", "url_3": "https://x/6"},
        ]
    },
}


def round_trip(kind: str, task: JsonObject) -> Task:
    report = Kling().read_callback(json.dumps(task | {"updated_at": 1781080819402}).encode())
    return observed(report, replace(TASK, kind=kind))


@pytest.mark.parametrize("kind", RESULTS)
def test_result_of_every_kind_survives_round_trip(kind: str) -> None:
    result = RESULTS[kind]
    task = round_trip(kind, {"task_id": "1", "task_status": "succeed", "task_result": result})
    assert legacy_task(task)["task_result"] == result


@pytest.mark.parametrize("kind", RESULTS)
def test_new_dialect_result_survives_round_trip(kind: str) -> None:
    task = round_trip(kind, {"task_id": "1", "task_status": "succeed", "task_result": RESULTS[kind]})
    again = round_trip(kind, {"id": "1", "status": "succeeded", "outputs": new_task(task)["outputs"]})
    urls = [(asset.kind, asset.group, asset.url, asset.duration) for asset in facts.assets(task)]
    assert urls
    assert [(a.kind, a.group, a.url, a.duration) for a in facts.assets(again)] == urls


def test_failed_task_shows_its_message() -> None:
    failed = observed(Report(provider_task_id="1", status=Status.FAILED, message="Image pixel is invalid"))
    assert legacy_task(failed)["task_status_msg"] == "Image pixel is invalid"
    assert new_task(failed)["message"] == "Image pixel is invalid"


def test_provider_ids_are_not_shown() -> None:
    task = replace(sample_task("new"), sent_external_id="id-at-the-provider")
    assert task.provider_task_id == "842250903629086787"
    shown = json.dumps([legacy_task(task), new_task(task), legacy_created(task)])
    assert task.provider_task_id not in shown
    assert "id-at-the-provider" not in shown


@pytest.mark.parametrize(
    ("billing", "expected"),
    [
        ([UNITS], {"final_unit_deduction": "16"}),
        ([UNITS, {"charge_type": "unit", "amount": "4"}], {"final_unit_deduction": "20"}),
        ([UNITS, {"charge_type": "unit", "amount": "0.50"}], {"final_unit_deduction": "16.5"}),
        (
            [{"charge_type": "cash", "amount": "0.42", "list_price": "0.56"}],
            {"final_balance_deduction": {"quota": "0.42", "list_price": "0.56"}},
        ),
        ([{"charge_type": "unit", "amount": "1e9"}], {"final_unit_deduction": "0"}),
        ([None, "x", {"charge_type": "goodwill"}], {}),
        ({"charge_type": "unit"}, {}),
    ],
)
def test_billing_is_summed_in_legacy_fields(billing: JsonValue, expected: JsonObject) -> None:
    assert legacy_price({"billing": billing}) == expected


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ({"final_unit_deduction": "16", "final_balance_deduction": {"quota": "0", "list_price": "0"}}, [UNITS]),
        ({"final_unit_deduction": 16}, [UNITS]),
        (
            {"final_balance_deduction": {"quota": "0.42", "list_price": "0.56"}},
            [{"charge_type": "cash", "amount": "0.42", "list_price": "0.56"}],
        ),
        ({"final_unit_deduction": "0"}, []),
        ({"final_unit_deduction": ["16"], "final_balance_deduction": "free"}, []),
        ({}, []),
    ],
)
def test_legacy_price_becomes_billing(price: JsonObject, expected: list[JsonValue]) -> None:
    assert new_price(price, "image") == expected


def test_envelope_matches_the_provider() -> None:
    assert legacy_envelope({}, request_id="r") == {"code": 0, "message": "SUCCEED", "request_id": "r", "data": {}}
    assert error_envelope(1203, "no", request_id="r") == {"code": 1203, "message": "no", "request_id": "r"}
