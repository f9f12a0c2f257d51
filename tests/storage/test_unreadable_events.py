"""Test that unreadable event rows block nothing: every sink and stream gets all other events, on every database."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.suites.store_case import alarm
from tests.support.builders import NOW, a_task, an_event, writing
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tests.support.relay_harness import SOON, RelayHarness, relay_harness
from tests.support.scripted_sink import NO, ScriptedSink
from tracker.api.events import pieces
from tracker.delivery.sinks.base import DELIVERED
from tracker.model.event import UnreadableEvent
from tracker.model.sinks import ReplayFilter
from tracker.model.task import Status
from tracker.storage.store import Store

# The cursor of the second task's second event.
DAMAGED = 5
DAMAGES = {
    "no JSON": "UPDATE events SET data = '{' WHERE id = 5",
    "another shape": "UPDATE events SET data = '[1]' WHERE id = 5",
    "a word of a newer version": """UPDATE events SET data = '{"status":"paused"}' WHERE id = 5""",
    "no time that there is": "UPDATE events SET at = 9000000000000000000 WHERE id = 5",
}
ALARMS = {
    "no alarm": "UPDATE events SET data = '{}' WHERE id = 7",
    "an alarm of a newer version": """UPDATE events SET data = replace(data, 'mismatch', 'novelty') WHERE id = 7""",
}
REPAIRED = """UPDATE events SET data = '{"status":"processing"}' WHERE id = 5"""
NAMES = ("submitted", "processing", "succeeded")
ONE, TWO = a_task(1).id, a_task(2).id


def change(url: str, statement: str) -> None:
    """Change rows without the store, as only a fault or another version does."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def begun(url: str, damage: str) -> AbstractAsyncContextManager[RelayHarness]:
    """Damage the rows, then start a process."""
    change(url, damage)
    return relay_harness(url)


class UnreadableEvents:
    """Three events of each of two tasks, and an alarm; a subclass parametrises the fixture ``url``."""

    @pytest.fixture
    async def written(self, url: str) -> str:
        """Write all events in a process that has ended, so the rows are their only source."""
        store = Store(url)
        await store.open()
        try:
            for number in (1, 2):
                task = a_task(number, status=Status.SUCCEEDED, version=4)
                events = [
                    an_event(task, at, name) for at, name in ((2, "submitted"), (3, "processing"), (4, "succeeded"))
                ]
                await store.apply([writing(task, events=tuple(events))])
            await store.apply([writing(alarms=(alarm(),))])
        finally:
            await store.close()
        return url

    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    async def test_unreadable_event_is_dead_letter_for_every_sink(self, written: str, damage: str) -> None:
        async with begun(written, damage) as here:
            for name in ("shop", "lines"):
                sink = ScriptedSink(name=name)
                worker = await here.worker(sink)
                await here.deliver_all_new(worker)
                await worker.finish()
                assert sorted(event.cursor for event in sink.received) == [1, 2, 3, 4, 6, 7]
                assert sink.of(TWO) == [2, 4]
                state = await here.state(name)
                assert (state.cursor, state.behind, state.waiting, state.dead, state.on) == (7, 0, 0, 1, True)
                (dead,) = await here.dead_letters(name)
                assert (dead.cursor, dead.event_id, dead.task_id) == (DAMAGED, f"{TWO}-3", TWO)
                assert dead.error.startswith("the event cannot be read: ")
                assert dead.type == "homing.task.processing"

    async def test_unreadable_event_is_skipped_by_its_writer(self, url: str) -> None:
        sink = ScriptedSink()
        async with relay_harness(url) as here:
            worker = await here.worker(sink)
            await here.happen(1, 1, 1, 2, 2, 2)
            change(url, DAMAGES["no time that there is"])
            (state,) = await here.store.sinks.states()
            assert (state.behind, state.oldest_at) == (6, NOW)
            change(url, "UPDATE events SET at = 9000000000000000000 WHERE id = 1")
            (state,) = await here.store.sinks.states()
            assert (state.behind, state.oldest_at) == (6, None)
            await here.deliver_all_new(worker)
            await worker.finish()
            received = {event.cursor for event in sink.received}
            assert received >= {2, 3, 4, 6}
            # A single writer delivers new events from memory, even if their rows have changed since.
            assert {dead.cursor for dead in await here.dead_letters()} == {1, DAMAGED} - received

    async def test_unreadable_event_adds_no_rows_for_earlier_ones(self, url: str) -> None:
        async with relay_harness(url) as here:
            last = (await here.happen(*range(1, 41)))[-1]
        sink = ScriptedSink(answer=lambda _: NO)
        async with begun(url, f"UPDATE events SET data = '{{' WHERE id = {last.cursor}") as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            assert len(await here.pending()) <= sink.width

    @pytest.mark.parametrize("damage", ALARMS.values(), ids=ALARMS)
    async def test_unreadable_alarm_is_skipped(self, written: str, damage: str) -> None:
        sink = ScriptedSink()
        async with begun(written, damage) as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            assert sorted(event.cursor for event in sink.received) == [1, 2, 3, 4, 5, 6]
            (dead,) = await here.dead_letters()
            assert (dead.cursor, dead.event_id, dead.task_id) == (7, "homing.alarm.mismatch-7", None)

    async def test_unreadable_task_makes_all_its_events_unreadable(self, written: str) -> None:
        sink = ScriptedSink()
        async with begun(written, f"UPDATE tasks SET status = 'paused' WHERE id = '{TWO}'") as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            assert sorted(event.cursor for event in sink.received) == [1, 2, 3, 7]
            assert [dead.cursor for dead in await here.dead_letters()] == [4, 5, 6]

    async def test_unreadable_pending_event_is_dead_lettered(self, written: str) -> None:
        sink = ScriptedSink(width=1, answer=lambda event: NO if event.cursor == DAMAGED else DELIVERED)
        async with relay_harness(written) as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            assert [delivery.cursor for delivery in await here.pending()] == [5, 6]
            change(written, DAMAGES["no JSON"])
            here.clock.now = NOW + here.timing.hurry
            worker = await here.worker(sink)
            await here.deliver_all_pending(worker)
            assert sink.of(TWO) == [2, 4]
            (dead,) = await here.dead_letters()
            assert (dead.cursor, await here.pending()) == (DAMAGED, [])

    async def test_unreadable_event_is_skipped_by_the_stream(self, written: str) -> None:
        async with begun(written, DAMAGES["no JSON"]) as here:
            stream = pieces(here.feed, lambda _: True, "urn:homing", after=3)
            head, found = [await anext(stream) for _ in range(2)]
            assert head.endswith(b"id: 3\n\n")
            assert [line for line in found.splitlines() if line.startswith(b"id: ")] == [b"id: 4", b"id: 6", b"id: 7"]

    async def test_unreadable_event_wakes_task_waiters(self, written: str) -> None:
        async with relay_harness(written) as here, here.feed.watching(TWO) as changed:
            change(
                written,
                "INSERT INTO events (task_id, sequence, type, at, data) "
                f"VALUES ('{TWO}', 5, 'homing.task.updated', 0, '{{')",
            )
            here.feed.signal_commit()
            assert await here.feed.beyond(7, within=SOON)
            (found,) = await here.feed.read(7)
            assert (found.id, isinstance(found, UnreadableEvent)) == (f"{TWO}-5", True)
            assert changed.is_set()

    async def test_unreadable_event_is_logged_once_without_content(
        self, written: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lines() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.name == "homing.events"]

        async with begun(written, """UPDATE events SET data = '{"status":"secret"}' WHERE id IN (2, 5)""") as here:
            for _ in range(2):
                found = await here.store.events.read(after=0, limit=100)
                assert [one.cursor for one in found if isinstance(one, UnreadableEvent)] == [2, 5]
        subject = f"the event {ONE}-3 (homing.task.processing)"
        assert lines() == [f"{subject} cannot be read and is skipped: ValidationError (and 1 more)"]

    async def test_repaired_event_can_be_replayed(self, written: str) -> None:
        sink = ScriptedSink()
        again = ReplayFilter(dead=True)
        async with begun(written, DAMAGES["no JSON"]) as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            deliveries = here.store.deliveries
            assert await deliveries.replay("shop", again, lambda _: True, now=NOW, dry_run=False) == 0
            change(written, REPAIRED)
            assert await deliveries.replay("shop", again, lambda _: True, now=NOW, dry_run=False) == 1
            await here.deliver_all_pending(worker)
            assert sink.received[-1].id == f"{TWO}-3"
            assert (await here.dead_letters(), await here.pending()) == ([], [])


class TestSqlite(UnreadableEvents):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    @pytest.mark.parametrize("column", ["data", "type"])
    async def test_column_that_is_not_text_is_skipped(self, written: str, column: str) -> None:
        sink = ScriptedSink()
        # Its driver fails with the whole page.
        async with begun(written, f"UPDATE events SET {column} = CAST(x'7bff' AS TEXT) WHERE id = 5") as here:
            worker = await here.worker(sink)
            await here.deliver_all_new(worker)
            await worker.finish()
            assert sorted(event.cursor for event in sink.received) == [1, 2, 3, 4, 6, 7]
            (dead,) = await here.dead_letters()
            assert (dead.cursor, dead.error) == (DAMAGED, "the event cannot be read: UnicodeDecodeError")

    async def test_column_that_is_not_text_is_skipped_by_its_writer(self, url: str) -> None:
        async with relay_harness(url) as here:
            await here.happen(1, 1, 1)
            # The cursor of an alarm event is unknown before the commit, so its batch is read again.
            task = a_task(2, status=Status.SUCCEEDED, version=2)
            await here.store.apply([writing(task, events=(an_event(task, 2, "succeeded"),), alarms=(alarm(),))])
            change(url, "UPDATE events SET type = CAST(x'7bff' AS TEXT) WHERE id = 2")
            found = await here.store.events.read(after=0, limit=100)
            assert [one.cursor for one in found if isinstance(one, UnreadableEvent)] == [2]
            assert [one.cursor for one in found] == [1, 2, 3, 4, 5]


class TestPostgres(UnreadableEvents):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.fresh()
