"""The fields of the create requests: their bounds in words, and the fields with media."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kling_examples import CLIP, PICTURE, REQUESTS
from tracker.errors import InvalidRequest
from tracker.model.untrusted import JsonObject
from tracker.providers.kling import Kling
from tracker.providers.kling_bodies import BODIES
from tracker.providers.kling_bounds import plain_schema
from tracker.providers.kling_fields import MEDIA
from tracker.providers.kling_kinds import KINDS
from tracker.providers.kling_order import MEDIA_FIELDS

KLING = Kling()
CONTENT = "aGVsbG8="


def media_in(schema: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each field that holds media."""
    if schema.get("description") == MEDIA:
        yield name
    for below in schema.get("anyOf", []):
        yield from media_in(below, name)
    if "items" in schema:
        yield from media_in(schema["items"], name)
    for field, below in schema.get("properties", {}).items():
        yield from media_in(below, field)


def test_every_kind_has_a_body_and_a_row_in_the_table() -> None:
    assert BODIES.keys() == KINDS.keys() == KLING.kinds.keys()


@pytest.mark.parametrize("kind", BODIES)
def test_media_field_of_any_body_is_not_stored(kind: str) -> None:
    assert set(media_in(plain_schema(BODIES[kind]))) <= MEDIA_FIELDS


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("images/omni-image", {"n": 10}, "n must be an integer from 1 to 9"),
        ("images/omni-image", {"series_amount": ["a"]}, "series_amount must be an integer from 2 to 9, or auto"),
        ("images/omni-image", {"aspect_ratio": "5:4 - at `$.n`"}, "aspect_ratio must be one of 16:9"),
        ("images/omni-image", {"image_fidelity": 10**400}, "image_fidelity must be a number from 0 to 1"),
        ("videos/multi-elements", {"image_list": [{}]}, "image_list[0].image is required: a text: the URL of a file"),
        ("videos/multi-elements", {"image_list": [{"image": ""}]}, "image_list[0].image is required: a text"),
        ("images/omni-image", {"\ud800": 1}, "the body is not JSON"),
        ("videos/text2video", {"duration": "5\n"}, "duration must be a whole number"),
        (
            "images/multi-image2image",
            {"subject_image_list": []},
            "subject_image_list must be a list of 1 to 10 entries",
        ),
        ("images/editing/expand", {"up_expansion_ratio": 2.5}, "up_expansion_ratio must be a number from 0 to 2"),
        ("videos/text2video", {"duration": "60"}, "duration must be a whole number of seconds from 3 to 15"),
        ("videos/text2video", {"prompt": ""}, "prompt or multi_prompt is required"),
        ("videos/text2video", {"multi_shot": "yes"}, "multi_shot must be true or false"),
        (
            "videos/text2video",
            {"camera_control": {"config": {"zoom": 11}}},
            "camera_control.config.zoom must be a number",
        ),
        ("videos/text2video", {"camera_control": 1}, "camera_control must be an object"),
        (
            "videos/image2video",
            {"dynamic_masks": [{"trajectories": [{"x": 1}]}]},
            "trajectories[0].y is required: a number",
        ),
        ("videos/lip-sync", {"input": {"mode": "text2video"}}, "input: video_id or video_url is required"),
        ("videos/lip-sync", {"input": None}, "input is required: an object"),
        ("videos/effects", {"input": {"image": 7}}, "input.image must be a text: the URL of a file"),
        ("general/custom-voices", {"voice_name": "a" * 21}, "voice_name must be a text of 1 to 20 characters"),
        (
            "general/custom-voices",
            {"external_task_id": "a\nb"},
            "external_task_id must be a text of 1 to 200 printable",
        ),
    ],
)
def test_refused_field_is_named_with_its_bound(kind: str, changes: JsonObject, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        KLING.order(kind, dict(REQUESTS[kind]) | changes)
    assert message in refused.value.detail


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("videos/text2video", {"prompt": "", "multi_prompt": [{"index": 1, "prompt": "a cat", "duration": "3"}]}),
        ("videos/text2video", {"mode": "a mode of next year", "model_name": "kling-v9"}),
        ("videos/image2video", {"image": "", "image_tail": CONTENT, "duration": 15}),
        ("videos/effects", {"input": {"image": [CONTENT, CONTENT]}}),
        ("images/omni-image", {"element_list": [{"element_id": "829836802793406551"}]}),
        ("images/omni-image", {"watermark_info": [{"enabled": True}]}),
        ("images/omni-image", {"negative_prompt": None, "callback_url": ""}),
        ("images/omni-image", {"series_amount": 0, "image_list": [PICTURE, {"image": ""}, {"image_url": PICTURE}]}),
        ("images/generations", {"aspect_ratio": "5:4"}),
        ("videos/text2video", {"duration": 5.0, "camera_control": {"type": "", "config": {"zoom": ""}}}),
        ("videos/text2video", {"multi_prompt": [{"index": 1.0, "prompt": "a cat", "duration": None}]}),
        ("videos/omni-video", {"duration": "0"}),
        ("videos/lip-sync", {"input": {"mode": "text2video", "video_url": CLIP, "voice_speed": ""}}),
        ("audio/text-to-audio", {"duration": "5"}),
        ("general/advanced-custom-elements", {"element_video_list": {}, "tag_list": [{"tag_id": "o_101"}]}),
    ],
)
def test_request_of_any_edition_is_accepted(kind: str, changes: JsonObject) -> None:
    assert KLING.order(kind, dict(REQUESTS[kind]) | changes).kind == kind


def test_content_in_an_unknown_field_is_stored_as_digest() -> None:
    """Base64 is a word that is longer than any in a prompt."""
    content = "aGVsbG8g" * 100
    body: JsonObject = {"prompt": "a cat " * 200, "unheard_of": [{"deep": content}, content], "url": f" {PICTURE}"}
    shown = KLING.order("images/omni-image", body).shown
    assert content not in str(shown)
    assert (shown["prompt"], shown["url"]) == (body["prompt"], body["url"])


def test_content_is_stored_as_digest_in_every_media_field() -> None:
    body: JsonObject = {"prompt": "a cat", "deep": [{name: CONTENT} for name in sorted(MEDIA_FIELDS)]}
    order = KLING.order("images/omni-image", body)
    assert order.body == body
    assert CONTENT not in str(order.shown)
    assert str(order.shown).count("'bytes': 5") == len(MEDIA_FIELDS)
