"""Operating sinks over the API: for keys that see all, each wish as it was meant, each answer as the reference says."""

from dataclasses import replace

import httpx
import pytest

from tests.keys import LOCAL_ACCESS
from tests.unit.api_stand_in import NOW, StandIn, a_task, asking
from tests.unit.sinks_stand_in import OWED, SHOP
from tracker.api import Access, create_api
from tracker.model.keys import NamedKey
from tracker.model.sinks import ReplayFilter

KEYED = Access(api_keys=(NamedKey(name="studio", key="made-up-studio-key"),))
TASK = a_task(external_id="mine-1")


def local(tracker: StandIn) -> httpx.AsyncClient:
    return asking(create_api(tracker, LOCAL_ACCESS))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sinks"),
        ("POST", "/v1/sinks/shop/pause"),
        ("POST", "/v1/sinks/shop/resume"),
        ("DELETE", "/v1/sinks/shop"),
        ("GET", "/v1/sinks/shop/secret"),
        ("GET", "/v1/deliveries"),
        ("POST", "/v1/deliveries/give-up"),
        ("POST", "/v1/replay"),
    ],
)
async def test_it_takes_a_key_that_sees_all(method: str, path: str) -> None:
    tracker = StandIn()
    headers = {"authorization": "Bearer made-up-studio-key"}
    async with asking(create_api(tracker, KEYED), headers=headers) as client:
        bodies = {"/v1/replay": {"sink": "shop", "dead": True}, "/v1/deliveries/give-up": {"sink": "shop"}}
        body = bodies.get(path)
        assert (await client.request(method, path, json=body)).status_code == 403
    assert tracker.switchboard.done == []


async def test_a_sink_shows_how_far_it_is_and_what_is_wrong() -> None:
    states = [SHOP, replace(SHOP, name="well", failures=0, oldest_at=None), replace(SHOP, name="off", on=False)]
    states.append(replace(SHOP, name="settled", waiting=0, behind=0))
    tracker = StandIn()
    tracker.switchboard.states = states
    async with local(tracker) as client:
        shop, well, off, settled = (await client.get("/v1/sinks")).json()["sinks"]
    assert (shop["state"], shop["lag"], shop["behind"], shop["waiting"], shop["dead"]) == ("failing", 60.0, 3, 2, 1)
    assert (shop["last_error"], shop["named"], off["named"]) == ("answered 500", True, False)
    assert (well["state"], well["lag"], off["state"]) == ("on", None, "off")
    # What it refused last was given up: it is owed nothing more.
    assert settled["state"] == "on"


async def test_a_sink_that_is_off_says_who_turned_it_off_since_when_and_how_to_go_on() -> None:
    tracker = StandIn()
    gone = replace(SHOP, on=False, last_error="410 Gone")
    tracker.switchboard.states = [gone, replace(gone, failures=0), SHOP]
    async with local(tracker) as client:
        refused, paused, told = [sink["off"] for sink in (await client.get("/v1/sinks")).json()["sinks"]]
    assert (refused["by"], refused["why"], refused["at"]) == ("receiver", "410 Gone", "2026-11-23T11:59:00Z")
    assert (paused["by"], paused["why"], paused["at"]) == ("operator", "paused", None)
    assert told is None
    for off in (refused, paused):
        assert off["resume"] == "POST /v1/sinks/shop/resume, or homing sinks resume shop"


async def test_each_wish_reaches_the_switchboard_as_it_was_meant() -> None:
    tracker = StandIn(tasks=[TASK])
    async with local(tracker) as client:
        for method, path in (
            ("POST", "/v1/sinks/shop/pause"),
            ("POST", "/v1/sinks/shop/resume"),
            ("POST", "/v1/sinks/shop/resume?from_now=true"),
            ("DELETE", "/v1/sinks/shop"),
            ("GET", "/v1/sinks/shop/secret?client=studio"),
        ):
            assert (await client.request(method, path)).status_code == 200, path
        body = {"sink": "shop", "task": "mine-1", "since": NOW.isoformat()}
        assert (await client.post("/v1/replay", json=body)).json() == {"count": 17, "dry_run": True}
        again = await client.post("/v1/replay", json={"sink": "shop", "dead": True, "dry_run": False})
        assert again.json() == {"count": 17, "dry_run": False}
        body = {"task": "mine-1", "event": "hm1-2"}
        assert (await client.post("/v1/deliveries/give-up", json=body)).json() == {"count": 3, "dry_run": True}
        done = await client.post("/v1/deliveries/give-up", json={"sink": "shop", "dry_run": False})
        assert done.json() == {"count": 3, "dry_run": False}
    assert tracker.switchboard.done == [
        ("pause", "shop"),
        ("resume", "shop", False),
        ("resume", "shop", True),
        ("forget", "shop"),
        ("secrets", "shop", "studio"),
        ("replay", "shop", ReplayFilter(task_id=TASK.id, since=NOW), True),
        ("replay", "shop", ReplayFilter(dead=True), False),
        ("give up", None, TASK.id, "hm1-2", True),
        ("give up", "shop", None, None, False),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sink": "shop"}, 400),
        ({"sink": "shop", "dead": False}, 400),
        ({"dead": True}, 400),
        ({"sink": "shop", "since": "yesterday"}, 400),
        ({"sink": "shop", "task": "nobody"}, 404),
        ({"sink": "elsewhere", "dead": True}, 409),
    ],
)
async def test_a_replay_that_cannot_be_is_refused(body: dict[str, object], status: int) -> None:
    tracker = StandIn()
    async with local(tracker) as client:
        assert (await client.post("/v1/replay", json=body)).status_code == status
    assert tracker.switchboard.done == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"dry_run": False}, 400),
        ({"sink": "shop", "events": ["hm1-2"]}, 400),
        ({"task": "nobody"}, 404),
        ({"sink": "elsewhere"}, 404),
    ],
)
async def test_a_wish_to_give_up_that_cannot_be_is_refused(body: dict[str, object], status: int) -> None:
    tracker = StandIn()
    async with local(tracker) as client:
        assert (await client.post("/v1/deliveries/give-up", json=body)).status_code == status
    assert tracker.switchboard.done == []


async def test_an_unknown_sink_is_told_so() -> None:
    async with local(StandIn()) as client:
        assert (await client.post("/v1/sinks/nobody/pause")).status_code == 404


async def test_deliveries_come_page_by_page_and_are_narrowed() -> None:
    tracker = StandIn(tasks=[TASK])
    tracker.switchboard.owed = [replace(OWED, cursor=cursor, next_at=None) for cursor in (5, 9, 12)]
    async with local(tracker) as client:
        query = {"limit": "2", "sink": "shop", "task": "mine-1", "state": "dead"}
        first = (await client.get("/v1/deliveries", params=query)).json()
        second = (await client.get("/v1/deliveries", params=query | {"cursor": first["next_cursor"]})).json()
        assert (await client.get("/v1/deliveries?cursor=x.shop")).status_code == 400
    assert [len(page["deliveries"]) for page in (first, second)] == [2, 1]
    assert second["next_cursor"] is None
    assert {one["state"] for one in first["deliveries"]} == {"dead"}
    assert tracker.switchboard.done[0] == ("deliveries", "shop", TASK.id, True, None)
    assert tracker.switchboard.done[1] == ("deliveries", "shop", TASK.id, True, (9, "shop"))


@pytest.mark.parametrize("name", ["%00", "%ED%B3%BF", "a" * 300])
async def test_a_name_that_no_sink_can_have_is_not_looked_for(name: str) -> None:
    tracker = StandIn()
    async with local(tracker) as client:
        for method, what in (("POST", "/pause"), ("POST", "/resume"), ("DELETE", ""), ("GET", "/secret")):
            assert (await client.request(method, f"/v1/sinks/{name}{what}")).status_code in {400, 404}
        assert (await client.get("/v1/deliveries?cursor=1.%00")).status_code == 400
    assert tracker.switchboard.done == []
