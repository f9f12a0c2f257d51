"""Statistics, orphan callbacks, shared callback URLs, health, and the access guard over a real tracker."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support.api_harness import (
    OPERATOR,
    PUBLIC_URL,
    ApiHarness,
    api_client,
    closed_client,
    closed_tracker,
    five_finished_tasks,
    kling_error,
)
from tests.support.builders import a_task, an_orphan, writing
from tracker.api import Access, routes
from tracker.api.rendering import check
from tracker.errors import SettingsError
from tracker.model.keys import NamedKey
from tracker.model.records import Check
from tracker.model.task import Status
from tracker.service.account_watch import IN_A_ROW

KEYED = Access(
    api_keys=(
        NamedKey(name="studio", key="made-up-studio-key"),
        NamedKey(name="operator", key="made-up-operator-key", sees_all=True),
    )
)


OPERATORS = {"authorization": "Bearer made-up-operator-key"}
STUDIOS = {"authorization": "Bearer made-up-studio-key"}


async def test_stats_show_counts_and_alarms(api: ApiHarness) -> None:
    await api.add(a_task(1, status=Status.SUBMITTED), a_task(2, status=Status.SUBMITTED))
    await api.raise_alarm("ids that disagree")

    async with api.client() as client:
        shown = (await client.get("/v1/stats")).json()

    assert shown["by_status"] == {"submitted": 2}
    (alarm,) = shown["alarms"]
    assert (alarm["kind"], alarm["count"], alarm["detail"]) == ("mismatch", 1, "ids that disagree")


async def test_stats_show_learned_values_to_all_clients_keys(api: ApiHarness) -> None:
    await api.add(*five_finished_tasks())

    async with api.client(KEYED, headers=OPERATORS) as client:
        shown = (await client.get("/v1/stats")).json()
    async with api.client(KEYED, headers=STUDIOS) as client:
        theirs = (await client.get("/v1/stats")).json()

    (loss,) = shown["callback_loss"]
    assert (loss["provider"], loss["kind"], loss["rate"], loss["tasks"]) == ("kling", "images/omni-image", 0.2, 5)
    assert loss["lost"] == 1
    assert 0 < loss["low"] < 0.2 < loss["high"] < 1
    (times,) = shown["run_times"]
    assert (times["model"], times["median"], times["tasks"]) == ("kling-v3-omni", 22.0, 5)
    assert (theirs["callback_loss"], theirs["run_times"]) == ([], [])


async def test_orphans_are_shown_without_body(api: ApiHarness) -> None:
    orphans = [an_orphan(provider_task_id=f"89{number}", body=b"{}") for number in (8, 9)]
    await api.tracker.store.apply([writing(orphan=orphan) for orphan in orphans])

    async with api.client() as client:
        every = (await client.get("/v1/orphans")).json()["orphans"]
        (orphan,) = (await client.get("/v1/orphans?limit=1")).json()["orphans"]

    assert {each["provider_task_id"] for each in every} == {"898", "899"}
    assert orphan["state"] == "waiting"
    assert {"body", "address"}.isdisjoint(orphan)


async def test_shared_callback_url_is_shown_once_and_revocable(api: ApiHarness) -> None:
    async with api.client() as client:
        made = await client.post("/v1/callback-urls", json={"provider": "kling", "label": "studio"})
        assert made.status_code == 201
        assert made.json()["callback_url"].startswith(f"{PUBLIC_URL}/callbacks/kling/s")
        listed = await client.get("/v1/callback-urls")
        assert listed.json()["callback_urls"][0]["label"] == "studio"
        assert "/callbacks/" not in listed.text
        revoked = await client.delete(f"/v1/callback-urls/{made.json()['shared_callback_url']['id']}")
        assert revoked.json()["revoked_at"] is not None


async def test_missing_callback_url_is_404(api: ApiHarness) -> None:
    async with api.client() as client:
        assert (await client.delete("/v1/callback-urls/2")).status_code == 404


@pytest.mark.parametrize("ref", ["x", "-1", "1.0", "٣", "9" * 25])
async def test_impossible_callback_url_id_is_not_looked_up(ref: str) -> None:
    async with closed_client() as client:
        assert (await client.delete(f"/v1/callback-urls/{ref}")).status_code == 404


async def test_operations_on_all_clients_require_their_key(api: ApiHarness) -> None:
    asked = [
        ("GET", "/v1/orphans", None),
        ("GET", "/v1/callback-urls", None),
        ("POST", "/v1/callback-urls", {"provider": "kling"}),
        ("DELETE", "/v1/callback-urls/1", None),
    ]
    async with api.client(KEYED, headers=STUDIOS) as client:
        refused = [(await client.request(method, path, json=body)).status_code for method, path, body in asked]
    assert await api.tracker.shared_callback_urls() == []
    async with api.client(KEYED, headers=OPERATORS) as client:
        taken = [(await client.request(method, path, json=body)).status_code for method, path, body in asked]

    assert (refused, taken) == ([403] * 4, [200, 200, 201, 200])


async def test_health_accepts_no_key_and_any_host(api: ApiHarness) -> None:
    async with api.client(KEYED, base_url="http://10.0.0.9:8000", anonymous=True) as client:
        for path in ("/healthz", "/readyz", "/openapi.json", "/asyncapi.json"):
            assert (await client.get(path)).status_code == 200
            assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
async def test_unchanged_document_is_not_sent_again(path: str) -> None:
    async with closed_client() as client:
        first = await client.get(path)
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await client.get(path, headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        changed = await client.get(path, headers={"if-none-match": '"other"'})

    assert (changed.status_code, changed.content) == (200, first.content)
    assert first.headers["cache-control"] == "no-cache", "a copy may be kept, and is asked about"


async def test_ready_reply_shows_no_details(api: ApiHarness) -> None:
    async with api.client() as client:
        reply = await client.get("/readyz")
    assert reply.json() == {"ready": True, "checks": [{"name": "database", "ok": True, "detail": "", "fatal": True}]}


def test_check_detail_is_shown_only_on_failure() -> None:
    green = check(Check(name="database", ok=True, detail="/var/lib/made-up/homing.db"))
    red = check(Check(name="database", ok=False, detail="the disk is full"))

    assert (green.detail, red.detail) == ("", "the disk is full")


async def test_ready_with_provider_trouble_stays_green(api: ApiHarness) -> None:
    api.provider.always = kling_error(401, 1002, "access key ak-made-up is not known")
    await api.add(*[a_task(number, provider_task_id=f"{number}") for number in range(IN_A_ROW)])
    for task in await api.tasks():
        await api.tracker.poll(OPERATOR, task.id)

    async with api.client() as client:
        reply = await client.get("/readyz")

    assert (reply.status_code, reply.json()["ready"]) == (200, True)
    assert reply.json()["checks"][1] == {
        "name": "provider kling",
        "ok": False,
        "detail": "the provider refuses the credential. Run `homing doctor`",
        "fatal": False,
    }


async def test_not_ready_is_red_with_reason() -> None:
    async with closed_client() as client:
        reply = await client.get("/readyz")
        assert (await client.get("/healthz")).status_code == 200

    assert reply.status_code == 503
    assert reply.json() == {
        "ready": False,
        "checks": [{"name": "database", "ok": False, "detail": "the database is not open", "fatal": True}],
    }


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic bWFkZTp1cA=="])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/a", "/v1/stats", "/v1/orphans", "/v1/callback-urls"])
async def test_request_without_key_is_refused(path: str, header: str | None) -> None:
    headers = {"authorization": header} if header else {}
    async with closed_client(KEYED, headers=headers, anonymous=True) as client:
        reply = await client.get(path)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in reply.text


async def test_wrong_host_is_misdirected() -> None:
    headers = {"authorization": "Bearer made-up-studio-key"}
    async with closed_client(KEYED, base_url="http://rebound.example.com", headers=headers) as client:
        reply = await client.get("/v1/tasks")
    assert reply.status_code == 421
    assert reply.json()["type"] == "urn:homing:problem:wrong-host"


def test_routes_without_key_are_not_made() -> None:
    with pytest.raises(SettingsError):
        routes(closed_tracker(), Access())


async def test_mounted_routes_keep_their_guard_and_ids(api: ApiHarness) -> None:
    await api.add(a_task(client="studio", external_id="mine/1"))
    app = Starlette(routes=[Mount("/homing", routes=routes(api.tracker, KEYED))])

    key = {"authorization": "Bearer made-up-studio-key"}
    async with api_client(app, anonymous=True) as client:
        assert (await client.get("/homing/v1/tasks/mine%2F1", headers=key)).json()["external_id"] == "mine/1"
        assert (await client.get("/homing/kling/v1/images/omni-image/mine%2F1", headers=key)).json()["code"] == 0
        assert (await client.get("/homing/v1/tasks")).status_code == 401
        assert (await client.get("/homing/kling/v1/videos/x")).json()["code"] == 1203
