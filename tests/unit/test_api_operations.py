"""Counts, orphans, standing addresses and health over a stand-in tracker; and the guard in front of them."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.keys import LOCAL_ACCESS
from tests.unit.api_stand_in import CALLBACK_URL, StandIn, a_task, asking
from tracker.api import Access, create_api, routes
from tracker.errors import SettingsError, StoreUnavailable
from tracker.model.keys import NamedKey
from tracker.model.records import Check

KEYED = Access(
    api_keys=(
        NamedKey(name="studio", key="made-up-studio-key"),
        NamedKey(name="operator", key="made-up-operator-key", sees_all=True),
    )
)


def local(tracker: StandIn) -> httpx.AsyncClient:
    return asking(create_api(tracker, LOCAL_ACCESS))


def keyed(key: str) -> httpx.AsyncClient:
    return asking(create_api(StandIn(), KEYED), headers={"authorization": f"Bearer {key}"})


async def test_stats_show_counts_and_alarms() -> None:
    async with local(StandIn()) as client:
        shown = (await client.get("/v1/stats")).json()
    assert shown["alarms"][0]["kind"] == "mismatch"
    assert shown["by_status"] == {"submitted": 0}


async def test_stats_show_what_was_learned_to_keys_that_see_all() -> None:
    async with keyed("made-up-operator-key") as client:
        shown = (await client.get("/v1/stats")).json()
    (loss,) = shown["callback_loss"]
    assert (loss["provider"], loss["kind"], loss["rate"], loss["tasks"]) == ("kling", "images/omni-image", 0.2, 5)
    assert loss["lost"] == 1
    assert 0 < loss["low"] < 0.2 < loss["high"] < 1
    (times,) = shown["run_times"]
    assert (times["model"], times["median"], times["tasks"]) == ("kling-v3-omni", 22.0, 5)
    async with keyed("made-up-studio-key") as client:
        shown = (await client.get("/v1/stats")).json()
    assert (shown["callback_loss"], shown["run_times"]) == ([], [])


async def test_orphans_are_shown_without_the_body_that_came() -> None:
    async with local(StandIn()) as client:
        orphan = (await client.get("/v1/orphans?limit=1")).json()["orphans"][0]
    assert (orphan["provider_task_id"], orphan["state"]) == ("899", "waiting")
    assert {"body", "address"}.isdisjoint(orphan)


async def test_a_standing_address_is_shown_once_and_can_be_revoked() -> None:
    async with local(StandIn()) as client:
        made = await client.post("/v1/callback-addresses", json={"provider": "kling", "label": "studio"})
        assert (made.status_code, made.json()["callback_url"]) == (201, CALLBACK_URL)
        listed = await client.get("/v1/callback-addresses")
        assert listed.json()["addresses"][0]["label"] == "studio"
        assert "/callbacks/" not in listed.text
        revoked = await client.delete("/v1/callback-addresses/1")
        assert revoked.json()["revoked_at"] is not None


@pytest.mark.parametrize("ref", ["2", "x", "-1", "1.0", "٣", "9" * 25])
async def test_an_address_that_is_not_there_is_404(ref: str) -> None:
    async with local(StandIn()) as client:
        assert (await client.delete(f"/v1/callback-addresses/{ref}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/orphans"),
        ("GET", "/v1/callback-addresses"),
        ("POST", "/v1/callback-addresses"),
        ("DELETE", "/v1/callback-addresses/1"),
    ],
)
async def test_what_concerns_every_client_takes_a_key_that_sees_all(method: str, path: str) -> None:
    body = {"provider": "kling"} if method == "POST" else None
    async with keyed("made-up-studio-key") as client:
        assert (await client.request(method, path, json=body)).status_code == 403
    async with keyed("made-up-operator-key") as client:
        assert (await client.request(method, path, json=body)).is_success


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/asyncapi.json"])
async def test_health_takes_no_key_and_any_host(path: str) -> None:
    async with asking(create_api(StandIn(), KEYED), base_url="http://10.0.0.9:8000", anonymous=True) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
async def test_a_document_that_is_known_is_not_sent_again(path: str) -> None:
    async with local(StandIn()) as client:
        first = await client.get(path)
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await client.get(path, headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        changed = await client.get(path, headers={"if-none-match": '"other"'})

    assert (changed.status_code, changed.content) == (200, first.content)
    assert first.headers["cache-control"] == "no-cache", "a copy may be kept, and is asked about"


async def test_ready_tells_strangers_nothing_but_that() -> None:
    tracker = StandIn(checks=[Check(name="database", ok=True, detail="/var/lib/made-up/homing.db")])
    async with local(tracker) as client:
        reply = await client.get("/readyz")
    assert reply.json() == {"ready": True, "checks": [{"name": "database", "ok": True, "detail": "", "fatal": True}]}


async def test_ready_with_trouble_at_the_provider_stays_green() -> None:
    trouble = Check(name="provider kling", ok=False, detail="it refuses the credential", fatal=False)
    tracker = StandIn(checks=[Check(name="database", ok=True, detail=""), trouble])

    async with local(tracker) as client:
        reply = await client.get("/readyz")

    assert (reply.status_code, reply.json()["ready"]) == (200, True)
    assert reply.json()["checks"][1] == {
        "name": "provider kling",
        "ok": False,
        "detail": "it refuses the credential",
        "fatal": False,
    }


async def test_not_ready_is_red_with_the_reason() -> None:
    tracker = StandIn(checks=[Check(name="database", ok=False, detail="the disk is full")])
    async with local(tracker) as client:
        reply = await client.get("/readyz")
        assert (await client.get("/healthz")).status_code == 200
    assert reply.status_code == 503
    assert reply.json() == {
        "ready": False,
        "checks": [{"name": "database", "ok": False, "detail": "the disk is full", "fatal": True}],
    }


async def test_a_check_that_fails_is_red_too() -> None:
    async with local(StandIn(fails=StoreUnavailable("the database is locked"))) as client:
        reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["checks"][0]["detail"]) == (503, "the database is locked")


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic bWFkZTp1cA=="])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/a", "/v1/stats", "/v1/orphans", "/v1/callback-addresses"])
async def test_without_a_key_nothing_is_told(path: str, header: str | None) -> None:
    headers = {"authorization": header} if header else {}
    async with asking(create_api(StandIn(), KEYED), headers=headers, anonymous=True) as client:
        reply = await client.get(path)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in reply.text


async def test_a_wrong_host_is_misdirected() -> None:
    headers = {"authorization": "Bearer made-up-studio-key"}
    async with asking(create_api(StandIn(), KEYED), base_url="http://rebound.example.com", headers=headers) as client:
        reply = await client.get("/v1/tasks")
    assert reply.status_code == 421
    assert reply.json()["type"] == "urn:homing:problem:wrong-host"


def test_routes_without_a_key_are_not_made() -> None:
    with pytest.raises(SettingsError):
        routes(StandIn(), Access())


async def test_the_routes_keep_their_guard_and_their_ids_where_they_are_mounted() -> None:
    tracker = StandIn(tasks=[a_task(client="studio", external_id="mine/1")])
    app = Starlette(routes=[Mount("/homing", routes=routes(tracker, KEYED))])
    key = {"authorization": "Bearer made-up-studio-key"}
    async with asking(app, anonymous=True) as client:
        assert (await client.get("/homing/v1/tasks/mine%2F1", headers=key)).json()["external_id"] == "mine/1"
        assert (await client.get("/homing/kling/v1/images/omni-image/mine%2F1", headers=key)).json()["code"] == 0
        assert (await client.get("/homing/v1/tasks")).status_code == 401
        assert (await client.get("/homing/kling/v1/videos/x")).json()["code"] == 1203
