"""Tests of transaction threads: errors reach the waiting code, and threads end only after their work."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tracker.errors import StoreUnavailable
from tracker.storage.engine.transactions import Workers

WITHIN = 60


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(1, "homing test")
    yield workers
    workers.shutdown()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [MemoryError(), ValueError(), SystemExit(), GeneratorExit()])
async def test_error_in_thread_is_raised(workers: Workers, error: BaseException) -> None:
    name = await workers.submit(lambda: threading.current_thread().name, waiting=0)

    with pytest.raises(type(error)):
        await workers.submit(lambda: fail(error), waiting=0)

    assert await workers.submit(lambda: threading.current_thread().name, waiting=0) == name


async def test_answer_without_memory_is_delivered_later(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, failures = asyncio.get_running_loop(), [MemoryError(), MemoryError()]
    call_soon = loop.call_soon_threadsafe

    def short_of_memory(*arguments: Any) -> object:
        if failures:
            raise failures.pop()
        return call_soon(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", short_of_memory)
    async with asyncio.timeout(WITHIN):
        assert await workers.submit(lambda: "here", waiting=0) == "here"
        assert await workers.submit(lambda: "still here", waiting=0) == "still here"


async def test_queued_work_ends_before_its_threads(workers: Workers) -> None:
    gate = threading.Event()
    answers = [workers.submit(gate.wait, waiting=number) for number in range(3)]
    cancelled = workers.submit(gate.clear, waiting=3)
    cancelled.cancel()

    gate.set()
    await asyncio.to_thread(workers.shutdown)

    assert await asyncio.gather(*answers) == [True] * 3
    assert gate.is_set(), "canceled work does not start"


async def test_system_without_threads_is_unavailable(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(StoreUnavailable, match="out of memory"):
            workers.submit(lambda: "here", waiting=0)

    assert await workers.submit(lambda: "here", waiting=0) == "here"
