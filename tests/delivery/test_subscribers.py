"""Subscribers: in-process functions that get events as durably as a sink and that the operator can manage."""

import asyncio
import sqlite3
import threading
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homing.serve import ALL_PARTS, Homing
from tests.support.builders import a_task, an_event, writing
from tests.support.conditions import until
from tracker.delivery.sinks.function import AsyncHook, Hook
from tracker.delivery.sinks.subscriber import Subscriber
from tracker.errors import SettingsError
from tracker.model.servers import Part
from tracker.model.sinks import ReplayFilter
from tracker.service.tracker import Tracker
from tracker.settings import Settings


class Seen:
    """A subscriber that keeps the IDs of the events. It raises for the first ``refusals`` calls."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.refusals = refusals
        self.ids: list[str] = []

    async def __call__(self, event: dict[str, Any]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError
        self.ids.append(event["id"])


def homing(
    folder: Path,
    *subscribers: Subscriber,
    sinks: str = "",
    parts: Collection[Part] = ALL_PARTS,
    deliver_events: bool = True,
) -> Homing:
    settings = Settings.model_validate({"database_url": f"sqlite:///{folder / 'homing.db'}", "sinks": sinks})
    return Homing(settings, subscribers=subscribers, parts=parts, deliver_events=deliver_events)


async def happen(tracker: Tracker, number: int, **task: Any) -> list[str]:
    """Publish a processing and a succeeded event of a task, and return their IDs."""
    before = await tracker.store.events.latest()
    events = [
        an_event(a_task(number, **task), version, name) for version, name in ((2, "processing"), (3, "succeeded"))
    ]
    for event in events:
        await tracker.store.apply([writing(event.task, events=(event,))])
    tracker.feed.signal_commit()
    return [published.id for published in await tracker.store.events.read(after=before, limit=len(events))]


async def received(seen: Seen, count: int) -> None:
    async def enough() -> bool:
        return len(seen.ids) >= count

    await until(enough)


def held(folder: Path) -> bool:
    """Return whether a process holds the lease of a sink."""
    with closing(sqlite3.connect(folder / "homing.db")) as database:
        return bool(database.execute("SELECT count(lease_owner) FROM sinks").fetchone()[0])


async def test_subscriber_catches_up_after_a_restart(tmp_path: Path) -> None:
    first, later = Seen(), Seen()
    async with homing(tmp_path, Subscriber("ends", first, types="succeeded", clients=["studio", "shop"])) as here:
        _, end = await happen(here.tracker, 1)
        await happen(here.tracker, 2, client="other")
        await received(first, 1)
    async with homing(tmp_path) as here:
        _, meanwhile = await happen(here.tracker, 3)
    async with homing(tmp_path, Subscriber("ends", later, types="succeeded", clients="studio")) as here:
        _, now = await happen(here.tracker, 4)
        await received(later, 2)
    assert (first.ids, later.ids) == ([end], [meanwhile, now])


async def test_subscriber_error_is_retried(tmp_path: Path) -> None:
    seen = Seen(refusals=2)
    async with homing(tmp_path, Subscriber("all", seen)) as here:
        ids = await happen(here.tracker, 1)
        await received(seen, 2)
    assert seen.ids == ids


async def test_new_subscriber_can_start_from_beginning(tmp_path: Path) -> None:
    from_now, from_the_beginning = Seen(), Seen()
    async with homing(tmp_path) as here:
        before = await happen(here.tracker, 1)
    both = (Subscriber("now", from_now), Subscriber("beginning", from_the_beginning, beginning=True))
    async with homing(tmp_path, *both) as here:
        after = await happen(here.tracker, 2)
        await received(from_now, 2)
        await received(from_the_beginning, 4)
    assert from_now.ids == after
    assert from_the_beginning.ids == before + after


async def test_sinks_are_recorded_before_first_request(tmp_path: Path) -> None:
    async with homing(tmp_path, Subscriber("mine", Seen()), sinks="stdout:#name=lines"):
        # No loop has run yet, because nothing was awaited since the start.
        with closing(sqlite3.connect(tmp_path / "homing.db")) as database:
            rows = database.execute("SELECT name, address FROM sinks ORDER BY name").fetchall()
    assert rows == [
        ("callbacks", "each client's callback_url"),
        ("lines", "stdout:"),
        ("mine", f"python:{__name__}:Seen"),
    ]


async def test_subscriber_can_be_replayed(tmp_path: Path) -> None:
    seen = Seen()
    async with homing(tmp_path, Subscriber("ends", seen, types="succeeded")) as here:
        sink_admin = here.tracker.sink_admin
        await happen(here.tracker, 1)
        await received(seen, 1)
        assert "ends" in sink_admin.names

        async def recorded() -> bool:
            return await sink_admin.replay("ends", ReplayFilter(), dry_run=True) == 1

        await until(recorded)
        await sink_admin.replay("ends", ReplayFilter(), dry_run=False)
        await received(seen, 2)
    assert len(set(seen.ids)) == 1


async def test_process_without_relay_leaves_events_pending(tmp_path: Path) -> None:
    quiet, seen = Seen(), Seen()
    async with homing(tmp_path, Subscriber("all", quiet)) as here:
        await until(lambda: asyncio.to_thread(held, tmp_path))
    async with homing(tmp_path, Subscriber("all", quiet), deliver_events=False) as here:
        ids = await happen(here.tracker, 1)
        assert not held(tmp_path)
    async with homing(tmp_path, Subscriber("all", seen)):
        await received(seen, 2)
    assert (quiet.ids, seen.ids) == ([], ids)


@pytest.mark.parametrize(
    ("sinks", "names"), [("stdout:#name=mine", ["mine"]), ("", ["mine", "mine"]), ("", ["callbacks"])]
)
def test_duplicate_sink_name_is_refused_before_open(tmp_path: Path, sinks: str, names: list[str]) -> None:
    with pytest.raises(SettingsError, match=f"two sinks are called {names[0]}. Rename the subscriber"):
        homing(tmp_path, *(Subscriber(name, Seen()) for name in names), sinks=sinks)
    assert list(tmp_path.iterdir()) == []


def test_subscriber_without_loops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Subscribers need the loops"):
        homing(tmp_path, Subscriber("mine", Seen()), parts={Part.API})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "no name"}, "is not valid. Use letters"),
        ({"types": "suceeded"}, "Did you mean succeeded"),
        ({"kinds": ["images/*", ""]}, "kind= is empty"),
    ],
)
def test_subscriber_invalid_argument_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Subscriber(**{"name": "mine", "hook": Seen(), **wrong})


@pytest.mark.parametrize("hook", [threading.Thread.join, asyncio.sleep, lambda _: None])
def test_subscriber_always_has_an_address(hook: Hook | AsyncHook) -> None:
    assert Subscriber("mine", hook).spec.address.startswith("python:")
