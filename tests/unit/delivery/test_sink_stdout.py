"""The stdout sink writes whole lines without delay. A closed or slow reader is a failure."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.support.published_events import a_success, an_alarm, an_event
from tracker.delivery.sinks.base import DELIVERED
from tracker.delivery.sinks.stdout import WITHIN, Lines
from tracker.model.event import structured
from tracker.model.event_filter import read_filter

SOURCE = "urn:homing"
WAVE = [an_event(a_success(1, request={"prompt": "two\nlines\u2028three"})), an_event(a_success(2)), an_alarm()]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def lines(descriptor: int, within: timedelta = WITHIN) -> Lines:
    return Lines(name="stdout", source=SOURCE, descriptor=descriptor, within=within)


async def test_event_is_one_json_line_without_delay(pipe: tuple[int, int]) -> None:
    read, write = pipe
    assert await lines(write).send(WAVE) == [DELIVERED] * 3
    # The lines are in the pipe although the test closed and flushed nothing.
    written = os.read(read, 1 << 20)
    assert written.count(b"\n") == 3
    assert written.endswith(b"\n")
    assert [json.loads(line) for line in written.splitlines()] == [
        json.loads(structured(event, SOURCE)) for event in WAVE
    ]


async def test_closed_reader_is_failure_that_is_retried(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    for outcome in await lines(write).send(WAVE):
        assert (outcome.delivered, outcome.hopeless, outcome.gone) == (False, False, False)
        assert outcome.error == "the standard output has no reader any more"


async def test_slow_reader_costs_bounded_time_and_gets_whole_lines(pipe: tuple[int, int]) -> None:
    read, write = pipe
    long = [an_event(a_success(number, request={"prompt": "x" * 50_000}), cursor=number) for number in range(1, 5)]
    sink = lines(write, within=timedelta(seconds=0.2))
    outcomes = await sink.send(long)
    assert [outcome.delivered for outcome in outcomes] == [True, False, False, False]
    got = bytearray()
    # The pipe is full in the middle of the second line. Reading completes that line, and then the next wave is sent.
    while got.count(b"\n") < 2:
        got += await asyncio.to_thread(os.read, read, 1 << 16)
    for _ in range(1000):
        if (await sink.send(WAVE))[0].delivered:
            break
        await asyncio.sleep(0.01)
    got += os.read(read, 1 << 20)
    ids = [json.loads(line)["id"] for line in got.splitlines()]
    assert ids == [long[0].id, long[1].id, *(event.id for event in WAVE)]


async def test_lines_stay_whole_on_nonblocking_pipe(pipe: tuple[int, int]) -> None:
    """Another program can set a shared terminal or pipe to non-blocking mode."""
    read, write = pipe
    os.set_blocking(write, False)
    long = [an_event(a_success(number, request={"prompt": "x" * 100_000}), cursor=number) for number in range(1, 5)]
    sending = asyncio.create_task(lines(write).send(long))
    got = bytearray()
    while got.count(b"\n") < len(long):
        got += await asyncio.to_thread(os.read, read, 1 << 16)
    assert await sending == [DELIVERED] * 4
    assert [json.loads(line)["id"] for line in got.splitlines()] == [event.id for event in long]


async def test_unwritable_output_is_reported(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    (outcome,) = await lines(pipe[1]).send(WAVE[:1])
    assert outcome.error == "the standard output cannot be written: OSError"


def test_stdout_sink_gets_only_filtered_events() -> None:
    sink = Lines(name="alarms", source=SOURCE, takes=read_filter({"type": ["homing.alarm.*"]}))
    assert [sink.endpoint(event) for event in WAVE] == [None, None, "alarms"]


@pytest.mark.parametrize("source", ["body", "data", "task"])
def test_event_source_may_be_any_name(source: str) -> None:
    event = an_event(a_success())
    for _ in range(2):
        document = json.loads(structured(event, source))
        assert (document["source"], document["data"]["id"]) == (source, event.subject)
