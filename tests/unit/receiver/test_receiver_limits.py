"""Limits for body size, body time and the number of unverified callbacks."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from starlette.types import Message, Receive

from receiver.errors import Disconnected
from receiver.limits import LARGE_BODIES, UNCOUNTED_BYTES, BodyBounds, Deadline, Late, UnsignedBound, read_body
from tracker.errors import Overloaded, TooLarge, TooSlow
from tracker.model.shared_capacity import SharedCapacity

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LONG = timedelta(seconds=30)
SHORT = timedelta(milliseconds=20)


def sent(*parts: bytes, complete: bool = True) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if complete:
        messages.append({"type": "http.request"})
    return played(messages)


def played(messages: Iterable[Message]) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def unread() -> Message:
    raise AssertionError("the body was read")


def bounds(limit: int, *, within: timedelta, capacity: int = 1 << 20) -> BodyBounds:
    return BodyBounds(limit=limit, deadline=Deadline(within), capacity=SharedCapacity(capacity, LARGE_BODIES))


async def test_body_parts_are_joined() -> None:
    assert await read_body(sent(b"{", b"", b"}"), [], bounds(2, within=LONG), "task hm1") == b"{}"


async def test_message_without_body_is_empty() -> None:
    assert await read_body(sent(), [(b"content-length", b"0")], bounds(2, within=LONG), "task hm1") == b""


@pytest.mark.parametrize("length", [b"4", b"9999999999999999999", b"9" * 5000])
async def test_declared_length_beyond_limit_is_refused_unread(length: bytes) -> None:
    with pytest.raises(TooLarge):
        await read_body(unread, [(b"content-length", length)], bounds(3, within=LONG), "task hm1")


@pytest.mark.parametrize("length", [b"3", b"0003", b"nonsense", b"", b"-1"])
async def test_other_declared_length_is_ignored(length: bytes) -> None:
    assert await read_body(sent(b"abc"), [(b"content-length", length)], bounds(3, within=LONG), "task hm1") == b"abc"


async def test_body_beyond_limit_is_refused_before_its_end() -> None:
    with pytest.raises(TooLarge):
        await read_body(sent(b"ab", b"cd", complete=False), [], bounds(3, within=LONG), "task hm1")


async def test_body_that_is_late_is_refused() -> None:
    with pytest.raises(TooSlow):
        await read_body(sent(b"a", complete=False), [], bounds(3, within=SHORT), "task hm1")


async def test_body_timeout_covers_all_parts() -> None:
    async def dripping() -> Message:
        await asyncio.sleep(SHORT.total_seconds() / 4)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(TooSlow):
        await read_body(dripping, [], bounds(3, within=SHORT), "task hm1")


async def test_disconnect_during_body_raises_disconnected() -> None:
    left = played([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    with pytest.raises(Disconnected):
        await read_body(left, [], bounds(3, within=LONG), "task hm1")


async def test_arriving_large_bodies_are_bounded_in_total() -> None:
    part = b"a" * (UNCOUNTED_BYTES + 1)
    bounded = bounds(1 << 30, within=LONG, capacity=2 * len(part))

    assert len(await read_body(sent(part), [], bounded, "task hm1")) == len(part)
    with pytest.raises(Overloaded):
        await read_body(sent(part, part), [], bounded, "task hm1")
    assert len(await read_body(sent(part[1:]), [], bounds(1 << 30, within=LONG, capacity=0), "task hm1")) > 0
    assert bounded.capacity.left == 2 * len(part), "some reserved bytes were not released"


async def waiting(deadline: Deadline, gate: asyncio.Event) -> str:
    try:
        with deadline:
            await gate.wait()
    except Late:
        return "late"
    return "in time"


async def test_deadline_ends_only_late_waits() -> None:
    deadline, gate, never = Deadline(SHORT), asyncio.Event(), asyncio.Event()
    waits = [asyncio.create_task(waiting(deadline, event)) for event in (never, gate, never)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waits) == ["late", "in time", "late"]
    # The deadline keeps no state that affects later waits.
    assert await waiting(deadline, gate) == "in time"
    assert await waiting(deadline, never) == "late"


@pytest.mark.parametrize("earlier", [0.0, 0.24, 0.26, 0.9])
async def test_deadline_ends_wait_in_time(earlier: float) -> None:
    deadline, clock = Deadline(SHORT), asyncio.get_running_loop().time
    other = asyncio.create_task(waiting(deadline, asyncio.Event()))  # starts the timer that all waits share
    await asyncio.sleep(earlier * SHORT.total_seconds())
    began = clock()
    assert await waiting(deadline, asyncio.Event()) == "late"
    assert SHORT.total_seconds() <= clock() - began < 5, "the wait ended at the wrong time"
    assert await other == "late"


async def test_many_short_waits_are_not_one_long_wait() -> None:
    deadline, began = Deadline(SHORT), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 3 * SHORT.total_seconds():
        with deadline:
            await asyncio.sleep(0)


def test_deadline_works_on_another_event_loop() -> None:
    deadline, before = Deadline(SHORT), asyncio.new_event_loop()
    forgotten = before.create_task(waiting(deadline, asyncio.Event()))
    before.run_until_complete(asyncio.sleep(0))
    before.close()
    for _ in range(2):
        assert asyncio.run(waiting(deadline, asyncio.Event())) == "late"
    assert not forgotten.done()


async def test_waits_are_counted() -> None:
    deadline, gate = Deadline(LONG), asyncio.Event()
    waits = [asyncio.create_task(waiting(deadline, gate)) for _ in range(3)]
    await asyncio.sleep(0)
    assert deadline.waiting == 3
    waits[0].cancel()
    gate.set()
    assert await asyncio.gather(*waits[1:]) == ["in time", "in time"]
    assert deadline.waiting == 0


async def test_cancelled_wait_raises_cancelled_error() -> None:
    deadline = Deadline(LONG)
    wait = asyncio.create_task(waiting(deadline, asyncio.Event()))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


async def test_wait_cancelled_at_deadline_is_cancelled() -> None:
    deadline = Deadline(SHORT)
    wait = asyncio.create_task(waiting(deadline, asyncio.Event()))
    await asyncio.sleep(0)
    for _ in range(1_000_000):
        if wait.cancelling():
            break
        await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


async def test_error_before_deadline_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), Deadline(LONG):
        raise ZeroDivisionError


def kept(bound: UnsignedBound, address: str, count: int, *, now: datetime = NOW, per_minute: int = 30) -> int:
    return sum(bound.take(address, per_minute=per_minute, now=now) is None for _ in range(count))


def test_unverified_callbacks_up_to_rate_are_kept() -> None:
    assert kept(UnsignedBound(most=9), "task a", 100) == 30


def test_rate_limit_refills_with_time() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 30) == 30
    wait = bound.take("task a", per_minute=30, now=NOW)
    assert wait == timedelta(seconds=2)
    assert kept(bound, "task a", 5, now=NOW + wait) == 1
    assert kept(bound, "task a", 100, now=NOW + timedelta(hours=1)) == 30


def test_rate_limit_is_per_url() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 100) == 30
    assert kept(bound, "task b", 100) == 30


def test_clock_set_back_refills_no_rate_limit() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 30) == 30
    assert kept(bound, "task a", 5, now=NOW - timedelta(days=1)) == 0


def test_rate_limit_remembers_only_latest_urls() -> None:
    bound = UnsignedBound(most=2)
    for address in ("a", "b", "a", "c"):
        assert kept(bound, address, 1, per_minute=2) == 1
    assert len(bound) == 2
    assert bound.take("a", per_minute=2, now=NOW) is not None, "the limit of the latest URL was dropped"
