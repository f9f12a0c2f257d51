"""Sink operations over the API: they need a key for all clients and return what the reference documents."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.suites.store_progress_suite import failure, held, settled
from tests.support.api_harness import ApiHarness, api_harness, closed_client
from tests.support.builders import NOW, a_sink, a_task, an_event
from tests.support.published_events import readable
from tracker.api import Access
from tracker.api.sinks import sink_shown
from tracker.model.event import PublishedEvent
from tracker.model.keys import NamedKey
from tracker.model.sinks import SinkState
from tracker.model.task import Status

KEYED = Access(api_keys=(NamedKey(name="studio", key="made-up-studio-key"),))
SINKS = "https://shop.example/hook#name=shop&from=beginning stdout:#name=lines"
TASK = a_task(external_id="mine-1", status=Status.SUCCEEDED, version=4)
LATER = NOW + timedelta(hours=1)
THEN = NOW - timedelta(minutes=1)
FAILING = SinkState(
    name="shop",
    address="https://shop.example/hook",
    on=True,
    cursor=7,
    behind=3,
    waiting=2,
    dead=1,
    delivered=4,
    oldest_at=THEN,
    failures=2,
    last_error="answered 500",
    last_error_at=THEN,
    delivered_at=None,
    retry_at=THEN,
    owner="somebody",
    lease_until=THEN,
)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[ApiHarness]:
    """Yield the API with the sinks of SINKS and one sink that is no longer in the settings."""
    async with api_harness(tmp_path, sinks=SINKS) as api:
        await api.register_sinks(a_sink(name="old", address="https://old.example"))
        yield api


async def three_events(api: ApiHarness) -> list[PublishedEvent]:
    """Record a task with three events that no sink has received."""
    names = ("submitted", "processing", "succeeded")
    await api.add(TASK, events=[an_event(TASK, at, name) for at, name in enumerate(names, start=2)])
    return readable(await api.tracker.store.events.read(after=0, limit=10))


async def state_of(client: httpx.AsyncClient, name: str) -> dict[str, object]:
    """Return a sink as the API shows it."""
    (sink,) = [one for one in (await client.get("/v1/sinks")).json()["sinks"] if one["name"] == name]
    return dict(sink)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/sinks", None),
        ("POST", "/v1/sinks/shop/pause", None),
        ("POST", "/v1/sinks/shop/resume", None),
        ("DELETE", "/v1/sinks/shop", None),
        ("GET", "/v1/sinks/shop/secret", None),
        ("GET", "/v1/deliveries", None),
        ("POST", "/v1/deliveries/dead-letter", {"sink": "shop"}),
        ("POST", "/v1/replay", {"sink": "shop", "dead_letter": True}),
    ],
)
async def test_sink_operations_require_all_clients_key(method: str, path: str, body: dict[str, object] | None) -> None:
    async with closed_client(KEYED, headers={"authorization": "Bearer made-up-studio-key"}) as client:
        assert (await client.request(method, path, json=body)).status_code == 403


def test_sink_shows_its_lag_and_last_error() -> None:
    shop = sink_shown(FAILING, configured=True, now=NOW)
    well = sink_shown(replace(FAILING, failures=0, oldest_at=None), configured=True, now=NOW)
    off = sink_shown(replace(FAILING, on=False), configured=False, now=NOW)
    # The refused delivery is a dead letter, so nothing is pending.
    settled = sink_shown(replace(FAILING, waiting=0, behind=0), configured=True, now=NOW)

    assert (shop.state, shop.lag, shop.unread, shop.pending, shop.dead_letters) == ("failing", 60.0, 3, 2, 1)
    assert (shop.last_error, shop.configured, off.configured) == ("answered 500", True, False)
    assert (well.state, well.lag, off.state, settled.state) == ("on", None, "off", "on")


def test_stopped_sink_shows_who_why_when_and_how_to_resume() -> None:
    gone = replace(FAILING, on=False, last_error="410 Gone")

    refused, paused, failing = [
        sink_shown(state, configured=True, now=NOW).off for state in (gone, replace(gone, failures=0), FAILING)
    ]

    assert refused is not None
    assert paused is not None
    assert (refused.by, refused.why, refused.at) == ("endpoint", "410 Gone", THEN)
    assert (paused.by, paused.why, paused.at) == ("operator", "paused", None)
    assert failing is None
    assert refused.resume == paused.resume == "POST /v1/sinks/shop/resume, or `homing sinks resume shop`"


async def test_sink_is_paused_resumed_and_moved_to_now(shop: ApiHarness) -> None:
    first, _, third = await three_events(shop)
    await held(shop.tracker.store)
    await settled(shop.tracker.store, cursor=third.cursor, failed=(failure(first),), failures=1, error="500")

    async with shop.client() as client:
        states = [await state_of(client, "shop")]
        for path in ("pause", "resume", "resume?from_now=true"):
            assert (await client.post(f"/v1/sinks/shop/{path}")).status_code == 200
            states.append(await state_of(client, "shop"))

    assert [(one["state"], one["pending"]) for one in states] == [("failing", 1), ("off", 1), ("on", 1), ("on", 0)]
    assert [(one["configured"], one["delivered"]) for one in states] == [(True, 0)] * 4


async def test_sink_is_deleted_unless_configured(shop: ApiHarness) -> None:
    async with shop.client() as client:
        named = await client.delete("/v1/sinks/shop")
        gone = await client.delete("/v1/sinks/old")
        left = [sink["name"] for sink in (await client.get("/v1/sinks")).json()["sinks"]]

    assert (named.status_code, gone.json()) == (409, {"name": "old", "state": "deleted"})
    assert left == ["callbacks", "lines", "shop"]


async def test_secret_is_per_sink_or_per_client(shop: ApiHarness) -> None:
    async with shop.client() as client:
        own = (await client.get("/v1/sinks/shop/secret")).json()["secrets"]
        studio, other = [
            (await client.get(f"/v1/sinks/callbacks/secret?client={name}")).json()["secrets"]
            for name in ("studio", "other")
        ]
        refused = [await client.get(f"/v1/sinks/{path}") for path in ("callbacks/secret", "shop/secret?client=studio")]

    assert all(secret.startswith("whsec_") for secret in (*own, *studio, *other))
    assert len({*own, *studio, *other}) == 3
    assert [reply.status_code for reply in refused] == [400, 400]


async def test_replay_counts_first_and_honors_filters(shop: ApiHarness) -> None:
    first, _, third = await three_events(shop)
    store = shop.tracker.store
    await held(store)
    await settled(store, cursor=third.cursor, failed=(failure(first, next_at=None),), delivered_count=2)
    later = LATER.isoformat()

    async with shop.client() as client:
        counts = [
            (await client.post("/v1/replay", json={"sink": "shop", **body})).json()
            for body in (
                {"task": "mine-1"},
                {"since": later},
                {"until": later},
                {"dead_letter": True, "dry_run": False},
            )
        ]
        waiting = (await state_of(client, "shop"))["pending"]

    dry = [{"count": count, "dry_run": True} for count in (3, 0, 3)]
    assert (counts, waiting) == ([*dry, {"count": 1, "dry_run": False}], 1)


async def test_dead_letter_request_honors_filters(shop: ApiHarness) -> None:
    first, second, third = await three_events(shop)
    store = shop.tracker.store
    await held(store)
    pending = tuple(failure(event, next_at=LATER) for event in (first, second))
    await settled(store, cursor=third.cursor, failed=pending)

    async with shop.client() as client:
        done = [
            (await client.post("/v1/deliveries/dead-letter", json=body)).json()
            for body in (
                {"task": "mine-1"},
                {"task": "mine-1", "event": first.id},
                {"sink": "lines"},
                {"sink": "shop", "event": second.id, "dry_run": False},
            )
        ]
        state = await state_of(client, "shop")

    assert [(one["count"], one["dry_run"]) for one in done] == [(2, True), (1, True), (0, True), (1, False)]
    assert (state["pending"], state["dead_letters"]) == (1, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/replay", {"sink": "shop"}),
        ("/v1/replay", {"sink": "shop", "dead_letter": False}),
        ("/v1/replay", {"dead_letter": True}),
        ("/v1/replay", {"sink": "shop", "since": "yesterday"}),
        ("/v1/deliveries/dead-letter", {}),
        ("/v1/deliveries/dead-letter", {"dry_run": False}),
        ("/v1/deliveries/dead-letter", {"sink": "shop", "events": ["hm1-2"]}),
    ],
)
async def test_body_without_filter_is_refused(path: str, body: dict[str, object]) -> None:
    async with closed_client() as client:
        assert (await client.post(path, json=body)).status_code == 400


async def test_missing_task_or_sink_is_refused(api: ApiHarness) -> None:
    async with api.client() as client:
        replayed = [
            (await client.post("/v1/replay", json=body)).status_code
            for body in ({"sink": "shop", "task": "nobody"}, {"sink": "elsewhere", "dead_letter": True})
        ]
        given_up = [
            (await client.post("/v1/deliveries/dead-letter", json=body)).status_code
            for body in ({"task": "nobody"}, {"sink": "elsewhere"})
        ]

    assert (replayed, given_up) == ([404, 409], [404, 404])


async def test_unknown_sink_is_404(api: ApiHarness) -> None:
    async with api.client() as client:
        for name in ("nobody", "%ED%B3%BF"):
            assert (await client.post(f"/v1/sinks/{name}/pause")).status_code == 404


async def test_deliveries_are_paged_and_filtered(shop: ApiHarness) -> None:
    events: Sequence[PublishedEvent] = await three_events(shop)
    await held(shop.tracker.store)
    dead = tuple(failure(event, next_at=None) for event in events)
    await settled(shop.tracker.store, cursor=events[-1].cursor, failed=dead)

    async with shop.client() as client:
        query = {"limit": "2", "sink": "shop", "task": "mine-1", "state": "dead_letter"}
        first = (await client.get("/v1/deliveries", params=query)).json()
        second = (await client.get("/v1/deliveries", params=query | {"cursor": first["next_cursor"]})).json()
        others = [
            (await client.get("/v1/deliveries", params=query | other)).json()["deliveries"]
            for other in ({"sink": "lines"}, {"state": "pending"})
        ]
        assert (await client.get("/v1/deliveries?cursor=x.shop")).status_code == 400

    shown = [one for page in (first, second) for one in page["deliveries"]]
    assert [one["event_id"] for one in shown] == [event.id for event in events]
    assert (len(first["deliveries"]), second["next_cursor"], others) == (2, None, [[], []])
    assert {one["state"] for one in shown} == {"dead_letter"}


@pytest.mark.parametrize("name", ["%00", "a" * 300])
async def test_impossible_sink_name_is_not_looked_up(name: str) -> None:
    async with closed_client() as client:
        for method, what in (("POST", "/pause"), ("POST", "/resume"), ("DELETE", ""), ("GET", "/secret")):
            assert (await client.request(method, f"/v1/sinks/{name}{what}")).status_code in {400, 404}
        assert (await client.get("/v1/deliveries?cursor=1.%00")).status_code == 400
