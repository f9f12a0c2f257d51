"""Sink operations of the operator, over a real store and the configured sinks."""

from collections.abc import AsyncIterator

import pytest

from tests.support.builders import NOW, an_event, writing
from tests.support.changing_server import a_number
from tracker.app import create_tracker, sinks_of
from tracker.errors import Conflict, InvalidRequest, NotFound
from tracker.model.sinks import ReplayFilter
from tracker.service.tracker import Tracker
from tracker.settings import Settings

SINKS = "https://shop.example/hook#name=shop&type=succeeded&client=studio stdout:#name=lines"


def settings(url: str, sinks: str = SINKS) -> Settings:
    return Settings.model_validate({"database_url": url, "sinks": sinks})


@pytest.fixture
async def tracker(url: str) -> AsyncIterator[Tracker]:
    """Yield a tracker with three finished tasks: two of client ``studio``, one of client ``other``."""
    chosen = settings(url)
    async with create_tracker(chosen) as tracker:
        for number, client in enumerate(("studio", "studio", "other"), start=1):
            for sequence, name in ((1, "processing"), (2, "succeeded")):
                event = an_event(a_number(number, client=client), sequence, name)
                await tracker.store.apply([writing(event.task, events=(event,))])
        await tracker.store.sinks.register([new for new, _ in sinks_of(chosen, tracker)], now=NOW)
        yield tracker


async def test_replay_uses_sink_filter_and_dry_run_adds_none(tracker: Tracker) -> None:
    board = tracker.sink_admin
    assert await board.replay("shop", ReplayFilter(since=NOW), dry_run=True) == 2
    assert await board.replay("lines", ReplayFilter(since=NOW), dry_run=True) == 6
    assert await board.replay("shop", ReplayFilter(task_id=a_number(3).id), dry_run=True) == 0
    assert await board.deliveries(limit=10) == []
    assert await board.replay("shop", ReplayFilter(task_id=a_number(2).id), dry_run=False) == 1
    (delivery,) = await board.deliveries(limit=10)
    assert (delivery.sink, delivery.event_id, delivery.attempts) == ("shop", f"{a_number(2).id}-2", 0)


async def test_replay_callbacks_needs_a_callback_url(tracker: Tracker) -> None:
    assert await tracker.sink_admin.replay("callbacks", ReplayFilter(since=NOW), dry_run=True) == 0
    asking = a_number(9, client_callback_url="https://shop.example/back")
    event = an_event(asking, 2, "succeeded")
    await tracker.store.apply([writing(event.task, events=(event,))])
    await tracker.sink_admin.resume("callbacks", from_now=True)
    assert await tracker.sink_admin.replay("callbacks", ReplayFilter(task_id=asking.id), dry_run=True) == 1


async def test_replay_and_delete_check_configured_sinks(tracker: Tracker, url: str) -> None:
    with pytest.raises(Conflict, match="callbacks, lines, shop"):
        await tracker.sink_admin.replay("elsewhere", ReplayFilter(dead=True), dry_run=True)
    with pytest.raises(Conflict, match="HOMING_SINKS"):
        await tracker.sink_admin.delete("shop")
    other = create_tracker(settings(url, "stdout:#name=lines"), store=tracker.store)
    with pytest.raises(Conflict, match="no sink `shop`"):
        await other.sink_admin.replay("shop", ReplayFilter(dead=True), dry_run=True)
    await other.sink_admin.delete("shop")
    assert {state.name for state in await other.sink_admin.sinks()} == {"callbacks", "lines"}
    with pytest.raises(NotFound):
        await other.sink_admin.delete("shop")
    with pytest.raises(NotFound, match="no progress yet"):
        await tracker.sink_admin.replay("shop", ReplayFilter(dead=True), dry_run=True)


async def test_paused_sink_is_off_until_resumed(tracker: Tracker) -> None:
    async def on() -> bool:
        return next(state.on for state in await tracker.sink_admin.sinks() if state.name == "shop")

    await tracker.sink_admin.pause("shop")
    assert not await on()
    await tracker.sink_admin.resume("shop")
    assert await on()
    for operation in (tracker.sink_admin.pause, tracker.sink_admin.resume):
        with pytest.raises(NotFound):
            await operation("nobody")


async def test_sink_secret_is_shown_for_webhooks_only(tracker: Tracker) -> None:
    (secret,) = await tracker.sink_admin.secrets("shop")
    assert secret.startswith("whsec_")
    assert await tracker.sink_admin.secrets("shop") == [secret]
    mine, theirs = [await tracker.sink_admin.secrets("callbacks", client) for client in ("studio", "other")]
    assert mine != theirs
    for name, client, error in (
        ("lines", None, NotFound),
        ("shop", "studio", InvalidRequest),
        ("callbacks", None, InvalidRequest),
    ):
        with pytest.raises(error):
            await tracker.sink_admin.secrets(name, client)
