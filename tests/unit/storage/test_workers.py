"""Threads for transactions: whatever goes wrong in one reaches who waits, and none of them ends before its time."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tracker.errors import StoreUnavailable
from tracker.storage.engine.workers import Workers

WITHIN = 20


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(1, "homing test")
    yield workers
    workers.shutdown()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [MemoryError(), ValueError(), SystemExit(), GeneratorExit()])
async def test_what_a_thread_meets_reaches_who_waits(workers: Workers, error: BaseException) -> None:
    name = await workers.submit(lambda: threading.current_thread().name, waiting=0)

    with pytest.raises(type(error)):
        await workers.submit(lambda: fail(error), waiting=0)

    assert await workers.submit(lambda: threading.current_thread().name, waiting=0) == name


async def test_an_answer_that_lacks_memory_is_given_later(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_what_is_queued_ends_before_the_threads_do(workers: Workers) -> None:
    gate = threading.Event()
    answers = [workers.submit(gate.wait, waiting=number) for number in range(3)]
    cancelled = workers.submit(gate.clear, waiting=3)
    cancelled.cancel()

    gate.set()
    await asyncio.to_thread(workers.shutdown)

    assert await asyncio.gather(*answers) == [True] * 3
    assert gate.is_set(), "what nobody waits for any more is not begun"


async def test_a_system_without_threads_is_told(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(StoreUnavailable, match="out of memory"):
            workers.submit(lambda: "here", waiting=0)

    assert await workers.submit(lambda: "here", waiting=0) == "here"
