"""How Kling is called: the body that goes out, what our row keeps of it, and the credential."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest

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
def test_the_body_of_either_edition_goes_out_as_it_came(body: JsonObject) -> None:
    order = KLING.order(OMNI_IMAGE, body)
    call = KLING.submit(order, external_id="hm1", callback_url="https://homing.example/cb")
    ours: JsonObject = {"external_task_id": "hm1", "callback_url": "https://homing.example/cb"}
    assert (call.method, call.path) == ("POST", "/v1/images/omni-image")
    assert json.loads(call.body) == body | ours


@pytest.mark.parametrize("name", ["external_task_id", "callback_url"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_optional_address_or_id_is_none(name: str, nothing: JsonValue) -> None:
    order = KLING.order(OMNI_IMAGE, {"prompt": "x", name: nothing})
    assert (order.external_id, order.callback_url, order.body) == (None, None, {"prompt": "x"})


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:,"])
@pytest.mark.parametrize("field", ["image", "image_list", "unheard_of"])
def test_a_picture_is_kept_as_its_digest_and_size(field: str, prefix: str) -> None:
    encoded = prefix + base64.b64encode(PICTURE).decode()
    value: JsonValue = [{"image": encoded}] if field == "image_list" else encoded
    order = KLING.order(OMNI_IMAGE, {"prompt": "x", field: value})
    digest: JsonValue = {"sha256": hashlib.sha256(PICTURE).hexdigest(), "bytes": len(PICTURE)}
    assert order.shown == {"prompt": "x", field: [{"image": digest}] if field == "image_list" else digest}
    assert order.body[field] == value


def test_of_a_request_with_many_texts_only_so_much_is_kept() -> None:
    body: dict[str, JsonValue] = {"prompt": "x", "n": 1, **{f"field {n}": "y" * 8_000 for n in range(50)}, "last": True}
    shown = KLING.order(OMNI_IMAGE, body).shown
    others = json.dumps({name: body[name] for name in sorted(body.keys() - shown.keys())}, separators=(",", ":"))
    assert shown["not_shown"] == {"sha256": hashlib.sha256(others.encode()).hexdigest(), "bytes": len(others)}
    assert (shown["prompt"], shown["n"], shown["last"], shown["field 0"]) == ("x", 1, True, "y" * 8_000)
    assert len(json.dumps(shown)) < 40_000


def test_a_picture_that_is_no_base64_is_still_not_kept() -> None:
    order = KLING.order(OMNI_IMAGE, {"prompt": "x", "image": "not base64 at all!"})
    assert order.shown["image"] == {"sha256": hashlib.sha256(b"not base64 at all!").hexdigest(), "bytes": 18}


@pytest.mark.parametrize("url", ["https://client.example/cat.png?sig=1", "HTTP://client.example/"])
def test_the_address_of_a_picture_is_kept(url: str) -> None:
    assert KLING.order(OMNI_IMAGE, {"prompt": "x", "image": url}).shown["image"] == url


def test_two_callers_with_the_same_wish_have_the_same_hash() -> None:
    one = KLING.order(OMNI_IMAGE, OFFICIAL)
    two = KLING.order(OMNI_IMAGE, OFFICIAL | {"external_task_id": "f", "callback_url": "https://x.example/"})
    assert one.request_hash == two.request_hash
    assert one.request_hash != KLING.order(OMNI_IMAGE, OFFICIAL | {"n": 8}).request_hash


def test_a_body_that_json_cannot_hold_is_refused() -> None:
    deep: JsonValue = []
    for _ in range(100_000):
        deep = [deep]
    for value in (float("nan"), float("inf"), deep):
        with pytest.raises(InvalidRequest, match="not JSON"):
            KLING.order(OMNI_IMAGE, {"prompt": "x", "odd": value})


def test_a_lone_surrogate_from_python_does_not_break_a_call() -> None:
    order = KLING.order(OMNI_IMAGE, {"prompt": "\ud800", "image": "\ud800"})
    assert KLING.submit(order, external_id="hm1", callback_url=None).body.isascii()


def test_an_api_key_is_a_bearer_key() -> None:
    assert KLING.authorization(ApiKey(key="made-up"), NOW) == {"authorization": "Bearer made-up"}


def test_a_key_pair_signs_the_documented_token() -> None:
    headers = KLING.authorization(KeyPair(access_key="ak", secret_key=SECRET), NOW)
    token = headers["authorization"].removeprefix("Bearer ")
    reports = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False})
    at = int(NOW.timestamp())
    assert reports == {"iss": "ak", "exp": at + 1800, "nbf": at - 5}
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    later = KLING.authorization(KeyPair(access_key="ak", secret_key=SECRET), NOW + timedelta(seconds=1))
    assert later != headers


def test_many_tasks_are_asked_about_in_one_query() -> None:
    call = KLING.query_many(["1", "2,3", "4"])
    assert (call.method, call.path, call.query, call.body) == ("GET", "/tasks", {"task_ids": "1,4"}, b"")


def test_a_page_of_a_kinds_list_is_asked_for_by_number() -> None:
    call = KLING.list_page("videos/text2video", 3)
    assert (call.path, call.query) == ("/v1/videos/text2video", {"pageNum": "3", "pageSize": "100"})


def test_tasks_of_other_kinds_can_be_followed_though_not_sent() -> None:
    assert [name for name, kind in KLING.kinds.items() if kind.submits] == [OMNI_IMAGE]
    assert KLING.query("videos/avatar/image2video", "1").path == "/v1/videos/avatar/image2video/1"


def test_order_without_a_model_names_none() -> None:
    """What a provider takes where none is named is its own choice, and differs."""
    assert KLING.order(OMNI_IMAGE, {"prompt": "a cat"}).model == ""
    assert KLING.order(OMNI_IMAGE, {"prompt": "a cat", "model_name": "kling-v3-omni"}).model == "kling-v3-omni"
