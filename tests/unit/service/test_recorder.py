"""Tests of group commit: queued work is committed, failed work fails alone, and the queue is bounded."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import Deciding, a_task, writing
from tests.support.databases import sqlite_url
from tests.support.fakes import GatedStore
from tracker.errors import Conflict, Overloaded, ServiceError, StoreUnavailable
from tracker.model.changes import Change, Known, Work
from tracker.service.recorder import Recorder
from tracker.storage.store import Store


@asynccontextmanager
async def gated(folder: Path) -> AsyncIterator[GatedStore]:
    store = GatedStore(sqlite_url(folder))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def queued(recorder: Recorder, works: Sequence[Work[Any]]) -> list[asyncio.Task[Any]]:
    """Submit work in order, without waiting for it."""
    tasks = [asyncio.create_task(recorder.apply(work)) for work in works]
    await asyncio.sleep(0)
    return tasks


async def occupy(recorder: Recorder, store: GatedStore) -> asyncio.Task[Any]:
    """Keep the recorder busy with one piece of work, so that later work is queued."""
    (first,) = await queued(recorder, [writing(counts={"polls": 1})])
    await store.waiting.wait()
    return first


async def test_queued_work_is_committed_in_batches(tmp_path: Path) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store, batch_bound=4)
        await recorder.open()
        first = await occupy(recorder, store)
        rest = await queued(recorder, [writing(a_task(number)) for number in range(1, 10)])
        store.gate.set()
        await asyncio.gather(first, *rest)
        assert store.batches == [1, 4, 4, 1]
        await recorder.close()


async def test_work_is_not_answered_before_commit(tmp_path: Path) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store)
        await recorder.open()
        first = await occupy(recorder, store)
        assert not first.done()
        store.gate.set()
        await first
        await recorder.close()


async def test_full_queue_refuses_and_keeps_queued_work(tmp_path: Path) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store, queue_bound=3)
        await recorder.open()
        first = await occupy(recorder, store)
        rest = await queued(recorder, [writing(a_task(number)) for number in range(1, 4)])
        with pytest.raises(Overloaded) as shed:
            await recorder.apply(writing(a_task(4)))
        assert shed.value.retry_after is not None
        store.gate.set()
        await asyncio.gather(first, *rest)
        assert await store.tasks.get(a_task(3).id) is not None
        assert await store.tasks.get(a_task(4).id) is None
        await recorder.apply(writing(a_task(4)))
        await recorder.close()


@pytest.mark.parametrize("queue_bound", [2, 100])
async def test_close_commits_queued_work_and_takes_no_more(tmp_path: Path, queue_bound: int) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store, queue_bound=queue_bound, batch_bound=1)
        await recorder.open()
        first = await occupy(recorder, store)
        rest = await queued(recorder, [writing(a_task(number)) for number in (1, 2)])
        closing_down = asyncio.create_task(recorder.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="not running"):
            await recorder.apply(writing(a_task(3)))
        store.gate.set()
        await closing_down
        assert all(task.done() for task in (first, *rest))
        assert await store.tasks.get(a_task(2).id) == a_task(2)
        with pytest.raises(StoreUnavailable, match="not running"):
            await recorder.apply(writing(a_task(3)))


async def test_recorder_can_reopen_and_close_twice(tmp_path: Path) -> None:
    async with gated(tmp_path) as store:
        store.gate.set()
        recorder = Recorder(store)
        await recorder.close()
        for number in (1, 2):
            await recorder.open()
            await recorder.apply(writing(a_task(number)))
            await recorder.close()
            await recorder.close()
        assert await store.tasks.get(a_task(2).id) is not None


async def test_canceled_work_is_still_committed(tmp_path: Path) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store)
        await recorder.open()
        first = await occupy(recorder, store)
        canceled, kept = await queued(recorder, [writing(a_task(1)), writing(a_task(2))])
        canceled.cancel()
        store.gate.set()
        await asyncio.gather(first, kept)
        assert canceled.cancelled()
        assert await store.tasks.get(a_task(1).id) == a_task(1)
        await recorder.close()


async def test_unwritable_work_fails_alone_by_halving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with gated(tmp_path) as store:
        recorder = Recorder(store)
        await recorder.open()
        first = await occupy(recorder, store)
        bad = writing(a_task(1, request={"prompt": "a made-up secret prompt \ud800"}))
        works = [writing(a_task(number)) for number in range(2, 9)]
        works.insert(4, bad)
        rest = await queued(recorder, works)
        store.gate.set()
        with caplog.at_level(logging.DEBUG, "homing"):
            answers = await asyncio.gather(first, *rest, return_exceptions=True)
        await recorder.close()
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert [type(error) for error in failed] == [ServiceError]
        assert store.batches == [1, 8, 4, 4, 2, 1, 1, 2]
        assert all([await store.tasks.get(a_task(number).id) is not None for number in range(2, 9)])
        assert "secret" not in caplog.text
        assert "secret" not in str(failed[0])


async def test_broken_decision_fails_alone(tmp_path: Path) -> None:
    def broken(_: Known) -> Change[None]:
        raise RuntimeError("a bug")

    async with gated(tmp_path) as store:
        store.gate.set()
        recorder = Recorder(store)
        await recorder.open()
        piece: Work[None] = Deciding(keys=frozenset(), decide=broken)
        answers = await asyncio.gather(
            recorder.apply(writing(a_task(1))), recorder.apply(piece), return_exceptions=True
        )
        assert isinstance(answers[1], ServiceError)
        assert await store.tasks.get(a_task(1).id) == a_task(1)
        await recorder.close()


@pytest.mark.parametrize("kind", [StoreUnavailable, Overloaded])
async def test_batch_refused_by_database_is_not_halved(tmp_path: Path, kind: type[ServiceError]) -> None:
    class NoStore(Store):
        tries = 0

        async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
            self.tries += 1
            raise kind(f"no room for {len(works)} pieces")

    store = NoStore(sqlite_url(tmp_path))
    recorder = Recorder(store)
    await recorder.open()
    works = [recorder.apply(writing(a_task(number))) for number in range(1, 9)]
    answers = await asyncio.gather(*works, return_exceptions=True)
    await recorder.close()
    assert [type(answer) for answer in answers] == [kind] * 8
    assert all(isinstance(answer, ServiceError) and answer.retry_after for answer in answers)
    assert store.tries == 1


async def test_conflict_is_raised_unchanged(tmp_path: Path) -> None:
    def refusing(_: Known) -> Change[None]:
        raise Conflict("taken")

    async with gated(tmp_path) as store:
        store.gate.set()
        recorder = Recorder(store)
        await recorder.open()
        piece: Work[None] = Deciding(keys=frozenset(), decide=refusing)
        with pytest.raises(Conflict, match="taken"):
            await recorder.apply(piece)
        await recorder.close()


async def test_unavailable_database_fails_the_whole_batch(tmp_path: Path) -> None:
    file = tmp_path / "homing.db"
    store = Store(f"sqlite:///{file}", busy=timedelta(milliseconds=50))
    await store.open()
    recorder = Recorder(store)
    await recorder.open()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        works = [recorder.apply(writing(a_task(number))) for number in (1, 2, 3)]
        answers = await asyncio.gather(*works, return_exceptions=True)
        other.execute("ROLLBACK")
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert all(isinstance(answer, StoreUnavailable) and answer.retry_after for answer in answers)
    assert await store.tasks.get(a_task(1).id) is None
    await recorder.apply(writing(a_task(1)))
    assert await store.tasks.get(a_task(1).id) == a_task(1)
    await recorder.close()
    await store.close()
