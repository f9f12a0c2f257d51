"""A function sink gets each event as JSON values, and its failures affect nothing else."""

import asyncio
import functools
import json
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.support.published_events import a_success, an_alarm, an_event
from tracker.delivery.sinks.base import DELIVERED
from tracker.delivery.sinks.function import AsyncHook, Function, Hook
from tracker.model.event import PublishedEvent, structured
from tracker.model.event_filter import read_filter

SHORT = timedelta(seconds=0.2)
SOURCE = "urn:homing"
WAVE = [an_event(a_success(number), cursor=number) for number in range(1, 6)]


def sink(hook: Hook | AsyncHook, **options: Any) -> Function:
    return Function(hook, name="hook", source=SOURCE, **options)


class Seen:
    """Records its calls as a plain function and as a coroutine function."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def plain(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    async def on_the_loop(self, event: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.plain(event)


class Called(Seen):
    async def __call__(self, event: dict[str, Any]) -> None:
        await self.on_the_loop(event)


@pytest.mark.parametrize("event", [WAVE[0], an_alarm()], ids=["task", "alarm"])
async def test_function_gets_event_as_plain_json_values(event: PublishedEvent) -> None:
    seen = Seen()
    assert await sink(seen.plain).send([event]) == [DELIVERED]
    assert await sink(seen.on_the_loop).send([event]) == [DELIVERED]
    assert seen.events == [json.loads(structured(event, SOURCE))] * 2
    assert json.loads(json.dumps(seen.events[0])) == seen.events[0]


async def test_plain_function_gets_wave_in_one_other_thread() -> None:
    seen = Seen()
    assert await sink(seen.plain).send(WAVE) == [DELIVERED] * 5
    assert [event["id"] for event in seen.events] == [event.id for event in WAVE]
    assert len(seen.threads) == 1
    assert threading.get_ident() not in seen.threads


async def test_coroutine_function_runs_on_event_loop() -> None:
    called = Called()
    for hook in (called, called.on_the_loop, functools.partial(called.on_the_loop)):
        assert await sink(hook).send(WAVE) == [DELIVERED] * 5
    assert called.threads == {threading.get_ident()}
    assert len(called.events) == 15


@pytest.mark.parametrize("error", [ValueError("made-up-secret"), SystemExit(1), KeyboardInterrupt()])
async def test_exception_fails_one_event_and_hides_message(error: BaseException) -> None:
    def plain(event: dict[str, Any]) -> None:
        if event["id"] == WAVE[2].id:
            raise error

    async def on_the_loop(event: dict[str, Any]) -> None:
        plain(event)

    for hook in (plain, on_the_loop):
        outcomes = await sink(hook).send(WAVE)
        assert [outcome.delivered for outcome in outcomes] == [True, True, False, True, True]
        assert outcomes[2].error == f"the function raised {type(error).__name__}"
        assert not outcomes[2].hopeless


async def test_coroutine_never_awaited_is_failure() -> None:
    seen = Seen()
    (outcome,) = await sink(lambda event: seen.on_the_loop(event)).send(WAVE[:1])  # noqa: PLW0108 - hides that it is one
    assert outcome.error == "the function raised TypeError"
    assert seen.events == []


async def test_hanging_plain_function_gets_no_second_thread() -> None:
    hanging, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def hook(event: dict[str, Any]) -> None:
        seen.append(event["id"])
        if event["id"] == WAVE[1].id and not go_on.is_set():
            hanging.set()
            go_on.wait()

    hung = sink(hook, within=SHORT)
    outcomes = await hung.send(WAVE)
    assert hanging.is_set()
    assert [outcome.delivered for outcome in outcomes] == [True, False, False, False, False]
    assert outcomes[1].error == "not finished within 0.2 s"
    assert {outcome.error for outcome in await hung.send(WAVE)} == {"it is still busy with an earlier event"}
    go_on.set()
    # When the hanging call ends, the function does not get the rest of the failed wave.
    for _ in range(2000):
        if all(outcome.delivered for outcome in await hung.send(WAVE)):
            break
        await asyncio.sleep(0.01)
    assert seen == [WAVE[0].id, WAVE[1].id, *(event.id for event in WAVE)]


async def test_hanging_coroutine_is_cancelled() -> None:
    cancelled: list[str] = []

    async def hook(event: dict[str, Any]) -> None:
        if event["id"] == WAVE[1].id:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(event["id"])

    outcomes = await sink(hook, within=SHORT).send(WAVE)
    assert [outcome.delivered for outcome in outcomes] == [True, False, True, True, True]
    assert outcomes[1].error == "not finished within 0.2 s"
    await asyncio.sleep(0)
    assert cancelled == [WAVE[1].id]


async def test_closing_sink_ends_running_calls() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def hook(event: dict[str, Any]) -> None:
        del event
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    closing = sink(hook, grace=timedelta(seconds=0.05))
    sending = asyncio.create_task(closing.send(WAVE[:1]))
    await started.wait()
    await closing.close()
    (outcome,) = await asyncio.wait_for(sending, timeout=20)
    assert not outcome.delivered
    assert ended.is_set()


async def test_function_sink_gets_only_filtered_events() -> None:
    picky = sink(print, takes=read_filter({"type": ["failed"]}))
    assert picky.endpoint(WAVE[0]) is None
    assert sink(print).endpoint(WAVE[0]) == "hook"


def test_hanging_thread_does_not_block_exit() -> None:
    """The interpreter waits at exit for all threads except daemon threads."""
    import subprocess  # noqa: PLC0415 - for this test alone

    program = (
        "import asyncio, threading; from datetime import timedelta; from tests.support.published_events import *; "
        "from tracker.delivery.sinks.function import Function; "
        "f = Function(lambda e: threading.Event().wait(), name='f', source='s', within=timedelta(seconds=0.05)); "
        "print(asyncio.run(f.send([an_event(a_success())]))[0].error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "not finished within 0.05 s\n"
