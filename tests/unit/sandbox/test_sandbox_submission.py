import json
from typing import Any

import pytest

from homing.sandbox.products import GENERATIONS, OMNI_IMAGE
from homing.sandbox.refusals import Refusal
from homing.sandbox.submission import read


def submit(kind: str = OMNI_IMAGE, **body: Any) -> Any:
    return read(kind, json.dumps({"prompt": "a cat", **body}).encode())


def test_body_of_aggregator_page_is_accepted() -> None:
    asked = submit(
        model_name="kling-v1",
        negative_prompt="a dog",
        image="string",
        image_fidelity=0,
        n=2,
        aspect_ratio="16:9",
        callback_url="https://example.invalid/callbacks",
    )
    assert (asked.slots, asked.series, asked.callback_url) == (2, False, "https://example.invalid/callbacks")


def test_official_body_is_accepted() -> None:
    asked = submit(
        model_name="kling-v3-omni",
        image_list=[{"image": "https://example.invalid/cat.png"}],
        element_list=[{"element_id": 123456789012345}],
        resolution="4k",
        result_type="series",
        series_amount=3,
        n=9,
        aspect_ratio="auto",
        watermark_info={"enabled": True},
        external_task_id="mine-1",
    )
    assert (asked.slots, asked.series, asked.watermark, asked.external_id) == (3, True, True, "mine-1")


@pytest.mark.parametrize(("amount", "slots"), [(None, 4), ("auto", 4), (9, 9)])
def test_series_has_its_own_amount_and_ignores_n(amount: object, slots: int) -> None:
    asked = submit(model_name="kling-v3-omni", result_type="series", n=1, series_amount=amount)
    assert asked.slots == slots


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 2501}, "prompt"),
        ({"n": 0}, "n is"),
        ({"n": 10}, "n is"),
        ({"n": True}, "n is"),
        ({"n": 1.0}, "n is"),
        ({"n": 2**70}, "n is"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio"),
        ({"aspect_ratio": ["16:9"]}, "aspect_ratio"),
        ({"resolution": "8k"}, "resolution"),
        ({"resolution": "4k"}, "resolution"),
        ({"result_type": "series"}, "result_type"),
        ({"series_amount": 1}, "series_amount"),
        ({"image_list": "x"}, "image_list"),
        ({"image_list": [{"url": "x"}]}, "image_list"),
        ({"image_list": [{"image": "x"}] * 11}, "image_list"),
        ({"element_list": [{"element_id": "x"}]}, "element_list"),
        ({"watermark_info": {"enabled": "yes"}}, "watermark_info"),
        ({"callback_url": "ftp://example.invalid"}, "callback_url"),
        ({"callback_url": "http://[broken"}, "callback_url"),
        ({"external_task_id": 5}, "external_task_id"),
        ({"external_task_id": "x" * 257}, "external_task_id"),
    ],
)
def test_field_out_of_bounds_is_1201_and_named(body: dict[str, Any], expected: str) -> None:
    with pytest.raises(Refusal, match=expected) as refused:
        submit(**body)
    assert (refused.value.code, refused.value.status) == (1201, 400)


@pytest.mark.parametrize("kind", [OMNI_IMAGE, GENERATIONS])
def test_missing_model_is_1203(kind: str) -> None:
    with pytest.raises(Refusal, match="does not exist") as refused:
        submit(kind, model_name="kling-v99")
    assert (refused.value.code, refused.value.status) == (1203, 404)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000])
def test_body_that_is_not_json_object_is_1200(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read(OMNI_IMAGE, raw)
    assert (refused.value.code, refused.value.status) == (1200, 400)
