"""Tests of requests to Kling: the body, the part of it that the task keeps, and the credential."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from tests.support.kling_examples import REQUESTS, a_query
from tracker.errors import InvalidRequest
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.base import ApiKey, KeyPair
from tracker.providers.kling import Kling

KLING = Kling()
OMNI_IMAGE = "images/omni-image"
NOW = datetime(2026, 6, 10, 8, 40, 0, 900_000, tzinfo=UTC)
PICTURE = bytes(range(256)) * 100
SECRET = "made-up-secret-of-the-tests-32-bytes"

SEED: JsonObject = {
    "model_name": "kling-v1",
    "prompt": "string",
    "negative_prompt": "string",
    "image": "string",
    "image_fidelity": 0,
    "n": 1,
    "aspect_ratio": "16:9",
    "callback_url": "https://client.example/done",
}
OFFICIAL: JsonObject = {
    "model_name": "kling-image-o1",
    "prompt": "Merge all the people in the images into the <<<object_1>>> image",
    "element_list": [{"element_id": 829836802793406551}],
    "image_list": [{"image": "https://v1-kling.klingai.com/multi-4.png"}],
    "resolution": "4k",
    "result_type": "series",
    "series_amount": "auto",
    "n": 9,
    "aspect_ratio": "auto",
    "watermark_info": {"enabled": True},
    "external_task_id": "e",
}


@pytest.mark.parametrize("body", [SEED, OFFICIAL, {"prompt": "a" * 5000}, {"prompt": "x", "n": None}])
def test_create_body_is_sent_unchanged(body: JsonObject) -> None:
    request = KLING.order(OMNI_IMAGE, body)
    call = KLING.submit(request, external_id="hm1", callback_url="https://homing.example/cb")
    ours: JsonObject = {"external_task_id": "hm1", "callback_url": "https://homing.example/cb"}
    assert (call.method, call.path) == ("POST", "/v1/images/omni-image")
    assert json.loads(call.body) == body | ours


@pytest.mark.parametrize("name", ["external_task_id", "callback_url"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_callback_url_or_external_id_is_none(name: str, nothing: JsonValue) -> None:
    request = KLING.order(OMNI_IMAGE, {"prompt": "x", name: nothing})
    assert (request.external_id, request.callback_url, request.body) == (None, None, {"prompt": "x"})


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:,"])
@pytest.mark.parametrize("field", ["image", "image_list", "unheard_of"])
def test_inline_image_is_kept_as_digest_and_size(field: str, prefix: str) -> None:
    encoded = prefix + base64.b64encode(PICTURE).decode()
    value: JsonValue = [{"image": encoded}] if field == "image_list" else encoded
    request = KLING.order(OMNI_IMAGE, {"prompt": "x", field: value})
    digest: JsonValue = {"sha256": hashlib.sha256(PICTURE).hexdigest(), "bytes": len(PICTURE)}
    assert request.shown == {"prompt": "x", field: [{"image": digest}] if field == "image_list" else digest}
    assert request.body[field] == value


def test_long_request_is_kept_in_part() -> None:
    body: dict[str, JsonValue] = {
        "prompt": "x",
        "n": 1,
        **{f"field {n}": "y " * 4_000 for n in range(50)},
        "last": True,
    }
    shown = KLING.order(OMNI_IMAGE, body).shown
    others = json.dumps({name: body[name] for name in sorted(body.keys() - shown.keys())}, separators=(",", ":"))
    assert shown["not_shown"] == {"sha256": hashlib.sha256(others.encode()).hexdigest(), "bytes": len(others)}
    assert (shown["prompt"], shown["n"], shown["last"], shown["field 0"]) == ("x", 1, True, "y " * 4_000)
    assert len(json.dumps(shown)) < 40_000


def test_invalid_base64_image_is_not_kept() -> None:
    request = KLING.order(OMNI_IMAGE, {"prompt": "x", "image": "not base64 at all!"})
    assert request.shown["image"] == {"sha256": hashlib.sha256(b"not base64 at all!").hexdigest(), "bytes": 18}


@pytest.mark.parametrize("url", ["https://client.example/cat.png?sig=1", "HTTP://client.example/"])
def test_image_url_is_kept(url: str) -> None:
    assert KLING.order(OMNI_IMAGE, {"prompt": "x", "image": url}).shown["image"] == url


def test_equal_requests_have_the_same_hash() -> None:
    one = KLING.order(OMNI_IMAGE, OFFICIAL)
    two = KLING.order(OMNI_IMAGE, OFFICIAL | {"external_task_id": "f", "callback_url": "https://x.example/"})
    assert one.request_hash == two.request_hash
    assert one.request_hash != KLING.order(OMNI_IMAGE, OFFICIAL | {"n": 8}).request_hash


def test_body_that_json_cannot_hold_is_refused() -> None:
    deep: JsonValue = []
    for _ in range(100_000):
        deep = [deep]
    for value in (float("nan"), float("inf"), deep):
        with pytest.raises(InvalidRequest, match="not JSON"):
            KLING.order(OMNI_IMAGE, {"prompt": "x", "odd": value})


def test_lone_surrogate_does_not_break_a_request() -> None:
    request = KLING.order(OMNI_IMAGE, {"prompt": "\ud800", "image": "\ud800"})
    assert KLING.submit(request, external_id="hm1", callback_url=None).body.isascii()


def test_api_key_is_sent_as_bearer_token() -> None:
    assert KLING.authorization(ApiKey(key="made-up"), NOW) == {"authorization": "Bearer made-up"}


def test_key_pair_signs_the_documented_token() -> None:
    headers = KLING.authorization(KeyPair(access_key="ak", secret_key=SECRET), NOW)
    token = headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False})
    at = int(NOW.timestamp())
    assert claims == {"iss": "ak", "exp": at + 1800, "nbf": at - 5}
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    later = KLING.authorization(KeyPair(access_key="ak", secret_key=SECRET), NOW + timedelta(seconds=1))
    assert later != headers


def test_batch_poll_is_one_request() -> None:
    call = KLING.query_many(["1", "2,3", "4"])
    assert (call.method, call.path, call.query, call.body) == ("GET", "/tasks", {"task_ids": "1,4"}, b"")


def test_task_list_page_is_requested_by_number() -> None:
    call = KLING.list_page("videos/text2video", "3")
    assert (call.path, call.query) == ("/v1/videos/text2video", {"pageNum": "3", "pageSize": "500"})


def test_query_of_nested_kind_keeps_its_path() -> None:
    call = KLING.query(a_query("1", kind="videos/avatar/image2video"))
    assert call is not None
    assert call.path == "/v1/videos/avatar/image2video/1"


def test_newer_dialect_names_which_id_it_queries() -> None:
    for external, name in ((False, "task_ids"), (True, "external_task_ids")):
        call = KLING.query(a_query("1", kind="text-to-video", external=external))
        assert call is not None
        assert (call.method, call.path, call.query) == ("GET", "/tasks", {name: "1"})
    assert KLING.query(a_query("1,2", kind="text-to-video")) is None
    page = KLING.list_page("solutions/talking_agent", "next")
    assert (page.method, page.path, json.loads(page.body)) == ("POST", "/solutions", {"limit": 500, "cursor": "next"})


@pytest.mark.parametrize(
    ("kind", "model", "path"),
    [
        ("text-to-video", "kling-3.0", "/text-to-video/kling-3.0"),
        ("solutions/talking_agent", "", "/solutions/talking_agent"),
    ],
)
def test_newer_dialect_has_homing_ids_in_its_options(kind: str, model: str, path: str) -> None:
    body: dict[str, JsonValue] = dict(REQUESTS[kind])
    body["options"] = {
        "external_task_id": "mine",
        "callback_url": "https://x.example/",
        "watermark_info": {"enabled": True},
    }
    order = KLING.order(kind, body | {"external_task_id": ["ignored"], "callback_url": "ignored"}, model=model)
    assert (order.external_id, order.callback_url, order.model) == ("mine", "https://x.example/", model)
    call = KLING.submit(order, external_id="hm1", callback_url="https://homing.example/c")
    sent = json.loads(call.body)
    assert call.path == path
    assert sent["options"] == {
        "external_task_id": "hm1",
        "callback_url": "https://homing.example/c",
        "watermark_info": {"enabled": True},
    }
    assert (sent["external_task_id"], sent["callback_url"]) == (["ignored"], "ignored")


def test_equal_bodies_of_two_products_are_two_requests() -> None:
    hashes = {
        KLING.order(kind, {"prompt": "a cat"}, model=model).request_hash
        for kind, model in (
            ("images/omni-image", ""),
            ("images/generations", ""),
            ("videos/text2video", ""),
            ("text-to-video", "kling-3.0"),
            ("text-to-video", "kling-2.6"),
        )
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("model", ["", "Kling", "a/b", "-a", "a" * 65])
def test_model_in_path_must_be_a_name(model: str) -> None:
    with pytest.raises(InvalidRequest, match="model must be"):
        KLING.order("text-to-video", {"prompt": "a cat"}, model=model)


def test_request_without_model_names_none() -> None:
    """If a request names no model, the provider chooses one. The choice differs between providers."""
    assert KLING.order(OMNI_IMAGE, {"prompt": "a cat"}).model == ""
    assert KLING.order(OMNI_IMAGE, {"prompt": "a cat", "model_name": "kling-v3-omni"}).model == "kling-v3-omni"
