"""/openapi.json is valid and complete, and the running app behaves as it documents."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.support.api_harness import (
    OPERATOR,
    ApiHarness,
    SharedApi,
    api_client,
    api_harness,
    closed_client,
    closed_tracker,
    shared_api,
)
from tests.support.api_keys import LOCAL_ACCESS
from tests.support.builders import OMNI, a_sink, a_task, an_entry, an_event
from tests.support.kling_examples import HELPER_REQUESTS, MODELS, REQUESTS
from tests.support.kling_examples import path_of as kind_path
from tests.support.published_events import a_success
from tracker.api import Limits, create_api, routes
from tracker.api.app import endpoints
from tracker.api.gateway import PREFIXES
from tracker.api.gateway_helpers import HELPER_PATHS
from tracker.api.http.openapi import describe, errors_of
from tracker.api.http.route import ApiRoute, RouteIndex
from tracker.errors import InvalidRequest, Refused
from tracker.model.event import JSON_TYPE
from tracker.providers.kling import Kling
from tracker.providers.kling_bodies import BODIES as BODIES_OF_KINDS
from tracker.rules.schedule import Policy

DOCUMENT: dict[str, Any] = dict(describe(endpoints()))
BODIES: dict[str, dict[str, Any]] = {
    "create_task": {"provider": "kling", "kind": OMNI, "input": {"prompt": "a cat", "anything": [1]}},
    "expect_task": {"provider": "kling", "kind": OMNI},
    "adopt_task": {"provider": "kling", "kind": OMNI, "provider_task_id": "8009"},
    "attach_task": {"provider_task_id": "8001"},
    "resolve_task": {"status": "rejected"},
    "create_callback_url": {"provider": "kling"},
    "replay": {"sink": "shop", "dead_letter": True},
    "dead_letter_deliveries": {"sink": "shop"},
    "create_images_omni_image": {"prompt": "a cat", "anything": [1]},
    "create_videos_text2video": {"prompt": "a cat", "anything": [1]},
    "create_text_to_video": {"prompt": "a cat", "anything": [1]},
    "create_solutions_virtual_try_on": {"contents": [{"type": "person_image"}], "anything": [1]},
    "list_tasks_by_cursor": {"limit": 1, "anything": [1]},
    "list_solutions_by_cursor": {},
    "create_prediction": {"input": {"prompt": "a cat"}, "version": "a" * 64, "anything": [1]},
    "create_prediction_of_model": {"input": {"prompt": "a cat"}, "anything": [1]},
    "create_prediction_of_deployment": {"input": {"prompt": "a cat"}},
    **HELPER_REQUESTS,
}
# Ask for JSON where a stream is also possible, because a stream does not end.
PLAIN = {"accept": JSON_TYPE}
VALUES = {
    "action": "replay",
    "wait": "0",
    "version": "1",
    "after": "0",
    "type": "succeeded",
    "task": "mine-1",
    "from_now": "true",
    "sink": "shop",
    "state": "dead_letter",
    "status": "succeeded",
    "provider": "kling",
    "kind": OMNI,
    "client": "local",
    "tag": "spring",
    "model": "kling-v3-omni",
    "metadata": "17",
    "created_after": "2026-11-23T12:00:00Z",
    "created_before": "2026-11-23T12:00:00Z",
    "limit": "1",
    "cursor": "0",
    "pageNum": "1",
    "pageSize": "1",
    "task_ids": "a,b",
    "external_task_ids": "a,b",
    "start_time": "1700000000000",
    "end_time": "1700000000001",
    "resource_pack_name": "a pack",
}
COSTS = "?start_time=1700000000000&end_time=1700000000001"
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
NAMES = [operation["operationId"] for _, _, operation in OPERATIONS]
# The task kinds of the gateway differ only in their path and body. Some of them represent all.
SHOWN_KINDS = ("images/omni-image", "videos/text2video", "text-to-video", "solutions/virtual_try_on")
KIND_OF = {
    f"{prefix}{f'/{kind}/{{model}}' if kind in MODELS else kind_path(kind)}{ref}": kind
    for kind in Kling.kinds
    for prefix in PREFIXES
    for ref in ("", "/{ref}")
}
EACH = [each for each in OPERATIONS if KIND_OF.get(each[1], SHOWN_KINDS[0]) in SHOWN_KINDS]
EACH_NAME = [operation["operationId"] for _, _, operation in EACH]


def body_of(name: str) -> dict[str, Any] | None:
    return BODIES.get(name.removesuffix("_unprefixed"))


def check(instance: object, schema: dict[str, Any]) -> None:
    OAS31Validator({**schema, "components": DOCUMENT["components"]}).validate(instance)


SINKS = "https://shop.example/hook#name=shop"
TASKS = {kind: a_success(number, kind=kind, client="local") for number, kind in enumerate(SHOWN_KINDS, start=1)}
PREDICTION = replace(a_success(21, kind="predictions", client="local"), provider="replicate", model="acme/images")
FINISHED = replace(TASKS[OMNI], external_id="mine-1", tags=("spring",))
TO_ATTACH, TO_POLL, TO_RESOLVE = (a_task(number) for number in (11, 12, 13))
# These operations do not act on the finished task or on the configured sink.
ACTS_ON = {
    "attach_task": TO_ATTACH.id,
    "poll_task": TO_POLL.id,
    "resolve_task": TO_RESOLVE.id,
    "delete_sink": "old",
    "revoke_callback_url": "1",
}


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[ApiHarness]:
    """Open an API in which each operation finds something."""
    # All operations share one minute of one client.
    policy = Policy(budget=60_000, client_budget=60_000)
    async with api_harness(folder, sinks=SINKS, replicate_api_key="made-up-key-of-the-tests", policy=policy) as api:
        others = [task for task in TASKS.values() if task.id != FINISHED.id]
        await api.add(*others, PREDICTION, TO_ATTACH, TO_POLL, TO_RESOLVE)
        await api.add(FINISHED, entries=[an_entry(FINISHED, "one")], events=[an_event(FINISHED, 3, "succeeded")])
        await api.raise_alarm("ids that disagree")
        await api.register_sinks(a_sink(name="old", address="https://old.example"))
        await api.tracker.create_callback_url(OPERATOR, provider="kling")
        for task_id, external_id in (("8001", TO_ATTACH.id), ("8002", TO_POLL.id), ("8009", "theirs")):
            api.provider.add(task_id, external_id=external_id, status="processing")
        yield api


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedApi]:
    with shared_api(opened(tmp_path_factory.mktemp("openapi"))) as one:
        yield one


def path_of(path: str, name: str) -> str:
    thing = ACTS_ON.get(name)
    task = PREDICTION if path.startswith("/replicate") else TASKS[KIND_OF.get(path, OMNI)]
    path = path.replace("{model}", "kling-3.0").replace("{owner}", "acme")
    return path.replace("{name}", thing or "shop").replace("{ref}", thing or task.id)


def wrong_status(path: str) -> int:
    """Return the status for an unusable field in the form of errors of a path."""
    return 422 if path.startswith("/replicate") else 400


def query_of(method: str, path: str) -> str:
    if path.endswith("/account/costs"):
        return COSTS
    return "?task_ids=a" if method == "get" and path.removeprefix("/kling") in {"/tasks", "/solutions"} else ""


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"
    assert len(set(NAMES)) == len(NAMES)
    headers = {
        name["name"] for _, _, operation in OPERATIONS for name in operation["parameters"] if name["in"] == "header"
    }
    assert headers == {"Idempotency-Key", "Homing-Tags", "If-None-Match", "Last-Event-ID"}


async def test_document_is_served_by_app() -> None:
    async with closed_client() as client:
        assert (await client.get("/openapi.json")).json() == DOCUMENT


def test_routes_and_documented_operations_are_equal() -> None:
    routed = set[tuple[str, str]]()
    for route in routes(closed_tracker(), LOCAL_ACCESS):
        assert isinstance(route, ApiRoute | RouteIndex)
        # A route without endpoints only returns 404.
        for each in [route] if isinstance(route, ApiRoute) else route.routes:
            routed |= {(method.lower(), each.path) for method in each.handler.endpoints}
    assert routed == {(method, path) for method, path, _ in OPERATIONS}


@pytest.mark.parametrize(("method", "path", "operation"), EACH, ids=EACH_NAME)
def test_operation_accepts_and_returns_as_documented(
    shared: SharedApi, method: str, path: str, operation: dict[str, Any]
) -> None:
    name = operation["operationId"]
    body, address = body_of(name), path_of(path, name)
    assert (body is not None) == ("requestBody" in operation)
    if body is not None:
        check(body, operation["requestBody"]["content"]["application/json"]["schema"])

    async def ask() -> httpx.Response:
        async with shared.api.client(headers=PLAIN) as client:
            undocumented = await client.request(method.upper(), address, params={"undocumented": "1"}, json=body)
            reply = await client.request(method.upper(), address + query_of(method, path), json=body)
            assert reply.is_success, reply.text
            assert documented(operation, reply)
            for parameter in operation["parameters"]:
                if parameter["in"] == "query":
                    where = address.replace("/shop/secret", "/callbacks/secret")
                    key = "[order]" if parameter.get("style") == "deepObject" else ""
                    params = {parameter["name"] + key: VALUES[parameter["name"]]}
                    if path.endswith("/account/costs"):
                        params |= {"start_time": "1", "end_time": "2"}
                    if name == "list_helper_calls" and "state" in params:
                        params["state"] = "unknown"
                    taken = await client.request(method.upper(), where, params=params, json=body)
                    assert taken.is_success, (params, taken.text)
        return undocumented

    ignored = operation["tags"] == ["gateway"] and method == "get" and not query_of(method, path)
    assert shared.run(ask()).status_code == (200 if ignored else wrong_status(path))


@pytest.mark.parametrize(("method", "path", "operation"), EACH, ids=EACH_NAME)
async def test_operation_errors_are_documented(method: str, path: str, operation: dict[str, Any]) -> None:
    endpoint = next(e for e in endpoints() if (e.method.lower(), e.path) == (method, path))
    for error in errors_of(endpoint):
        details: dict[str, Any] = {"http_status": 400, "code": 1301, "task_id": "hm1"} if error is Refused else {}
        refusal = endpoint.dialect.refuse(error("made up", **details), "made-up-id")
        content = operation["responses"][str(refusal.status_code)]["content"].get(refusal.headers["content-type"])
        assert content is not None, (error, refusal.status_code)


def wrong_values(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one body per property in which this property has a type that no property accepts."""
    # One edition describes this field as a list.
    for name in schema.get("properties", {}).keys() - {"watermark_info"}:
        yield {name: [["a list in a list"]]}


def documented(operation: dict[str, Any], reply: httpx.Response) -> bool:
    """Check a reply against the documented response for its status."""
    content = operation["responses"][str(reply.status_code)]["content"]
    check(reply.json(), content[reply.headers["content-type"]]["schema"])
    return True


@pytest.mark.parametrize(("method", "path", "operation"), EACH, ids=EACH_NAME)
async def test_operation_failures_are_documented(method: str, path: str, operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    address = path_of(path, name) + query_of(method, path)
    kind = {"content-type": "application/json"}
    async with closed_client(limits=Limits(body=10, gateway_body=10)) as client:
        if operation["security"]:
            refused = await client.request(method.upper(), address, headers=kind | {"authorization": "Bearer wrong"})
            assert refused.status_code == 401
            assert documented(operation, refused)
        if "requestBody" in operation:
            for content, media_type, status in (
                (b"{}", "text/plain", 415),
                (b"[]", JSON_TYPE, wrong_status(path)),
                (b" " * 11, JSON_TYPE, 413),
            ):
                headers = {"content-type": media_type}
                reply = await client.request(method.upper(), address, content=content, headers=headers)
                assert reply.status_code == status
                assert documented(operation, reply)
    if operation["security"]:
        async with api_client(create_api(closed_tracker(sinks=SINKS), LOCAL_ACCESS)) as client:
            reply = await client.request(method.upper(), address, json=body_of(name))
        # For a key that sees all clients, a helper call that makes nothing and costs nothing needs no database.
        free = path in HELPER_PATHS and not path.endswith("/init-selection")
        recorded = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
        assert reply.status_code == (200 if free and not recorded else 503), reply.text
        assert documented(operation, reply)


async def test_red_readyz_is_documented() -> None:
    async with closed_client() as client:
        reply = await client.get("/readyz")
    assert reply.status_code == 503
    assert documented(DOCUMENT["paths"]["/readyz"]["get"], reply)


@pytest.mark.parametrize(("method", "path", "operation"), EACH, ids=EACH_NAME)
async def test_documented_field_is_really_checked(method: str, path: str, operation: dict[str, Any]) -> None:
    body = body_of(operation["operationId"])
    if body is None:
        assert "requestBody" not in operation
        return
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    async with closed_client() as client:
        for wrong in wrong_values(DOCUMENT["components"]["schemas"][name]):
            reply = await client.request(method.upper(), path_of(path, operation["operationId"]), json=body | wrong)
            assert reply.status_code == wrong_status(path), wrong


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES)
def test_operation_is_in_the_reference(method: str, path: str, operation: dict[str, Any]) -> None:
    page = "gateway.md" if operation["tags"] == ["gateway"] else "api.md"
    text = (Path(__file__).parents[3] / "docs" / "reference" / page).read_text()
    kind = KIND_OF.get(path)
    shown = text + (Path(__file__).parents[3] / "docs" / "reference" / "kling-kinds.md").read_text()
    assert path in text or (kind is not None and path.replace(kind, "{kind}") in text and f"`{kind}`" in shown)
    assert f"`{method.upper()}`" in text


PAGE: dict[str, Any] = json.loads((Path(__file__).parents[2] / "samples/kling/omni-image-fields.json").read_text())


def fits(schema: dict[str, Any], value: object) -> bool:
    return bool(OAS31Validator({**schema, "components": DOCUMENT["components"]}).is_valid(value))


def edges(field: dict[str, Any]) -> tuple[list[object], list[object]]:
    """Return values at the documented bounds of a field, and values outside them."""
    if "enum" in field:
        return field["enum"], ["5:4", 7]
    if field["type"] == "string":
        return ["a", "a" * field.get("maxLength", 100)], [7, {}]
    low, high = field["minimum"], field["maximum"]
    return [low, high], [low - 1, high + 1, "1", True]


@pytest.mark.parametrize("name", PAGE["body"])
def test_documented_page_field_has_its_bounds_in_schema(shared: SharedApi, name: str) -> None:
    field, schema = PAGE["body"][name], DOCUMENT["components"]["schemas"]["OmniImageBody"]
    good, bad = edges(field)
    if name == "callback_url":
        good = ["https://client.example.com/done"]

    async def created(value: object) -> int:
        async with shared.api.client() as client:
            reply = await client.post("/kling/v1/images/omni-image", json={"prompt": "a cat", name: value})
        return reply.status_code

    assert (name in schema["required"]) is field.get("required", False)
    for value in good:
        assert fits(schema, {"prompt": "a cat", name: value}), value
        assert shared.run(created(value)) == 200, value
    for value in bad:
        assert not fits(schema, {"prompt": "a cat", name: value}) or isinstance(value, bool), value
        assert shared.run(created(value)) == 400, value


async def test_documented_page_reply_equals_create_reply(api: ApiHarness) -> None:
    async with api.client() as client:
        reply = (await client.post("/kling/v1/images/omni-image", json={"prompt": "a cat"})).json()

    for shape, shown in ((PAGE["reply"], reply), (PAGE["reply"]["data"], reply["data"])):
        for name, field in shape.items():
            assert name == "data" or fits(field, shown[name])


@pytest.mark.parametrize("kind", REQUESTS)
def test_body_of_each_kind_is_documented_as_it_is_checked(kind: str) -> None:
    """The schema and the check accept the same request, and refuse the same wrong ones."""
    name = BODIES_OF_KINDS[kind].__name__
    schema = DOCUMENT["components"]["schemas"][name]
    body = REQUESTS[kind]
    assert fits(schema, body)
    order = partial(Kling().order, kind, model=MODELS.get(kind, ""))
    assert order(dict(body)).body.items() >= body.items()
    for field in schema["properties"].keys() - {"watermark_info"}:
        wrong = dict(body) | {field: [["a list in a list"]]}
        assert not fits(schema, wrong), field
        with pytest.raises(InvalidRequest, match=field.split("_list")[0]):
            order(wrong)
    groups = [one["required"][0] for group in schema.get("allOf", []) for one in group["anyOf"]]
    for field in schema.get("required", []):
        less = {given: value for given, value in body.items() if given != field}
        assert not fits(schema, less), field
        with pytest.raises(InvalidRequest, match=f"{field} is required"):
            order(less)
    if groups:
        less = {given: value for given, value in body.items() if given not in groups}
        assert not fits(schema, less)
        with pytest.raises(InvalidRequest, match=f"{groups[0]} or"):
            order(less)
