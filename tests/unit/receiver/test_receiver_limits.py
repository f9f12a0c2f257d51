"""The bounds: how much of a body is read, for how long, and how many hints are kept."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from starlette.types import Message, Receive

from receiver.errors import Disconnected
from receiver.limits import LARGE_BODIES, UNCOUNTED_BYTES, BodyBounds, Deadline, Late, UnsignedBound, read_body
from tracker.errors import Overloaded, TooLarge, TooSlow
from tracker.model.rooms import Room

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


def bounds(limit: int, *, within: timedelta, room: int = 1 << 20) -> BodyBounds:
    return BodyBounds(limit=limit, deadline=Deadline(within), room=Room(room, LARGE_BODIES))


async def test_parts_are_joined() -> None:
    assert await read_body(sent(b"{", b"", b"}"), [], bounds(2, within=LONG), "task hm1") == b"{}"


async def test_a_message_without_a_body_is_an_empty_one() -> None:
    assert await read_body(sent(), [(b"content-length", b"0")], bounds(2, within=LONG), "task hm1") == b""


@pytest.mark.parametrize("length", [b"4", b"9999999999999999999", b"9" * 5000])
async def test_a_declared_length_beyond_the_limit_is_refused_before_anything_is_read(length: bytes) -> None:
    with pytest.raises(TooLarge):
        await read_body(unread, [(b"content-length", length)], bounds(3, within=LONG), "task hm1")


@pytest.mark.parametrize("length", [b"3", b"0003", b"nonsense", b"", b"-1"])
async def test_another_declared_length_decides_nothing(length: bytes) -> None:
    assert await read_body(sent(b"abc"), [(b"content-length", length)], bounds(3, within=LONG), "task hm1") == b"abc"


async def test_a_body_beyond_the_limit_is_refused_without_waiting_for_its_end() -> None:
    with pytest.raises(TooLarge):
        await read_body(sent(b"ab", b"cd", complete=False), [], bounds(3, within=LONG), "task hm1")


async def test_a_body_that_does_not_end_in_time_is_refused() -> None:
    with pytest.raises(TooSlow):
        await read_body(sent(b"a", complete=False), [], bounds(3, within=SHORT), "task hm1")


async def test_the_time_is_for_the_whole_body_and_not_for_each_part() -> None:
    async def dripping() -> Message:
        await asyncio.sleep(SHORT.total_seconds() / 4)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(TooSlow):
        await read_body(dripping, [], bounds(3, within=SHORT), "task hm1")


async def test_a_sender_that_leaves_has_delivered_nothing() -> None:
    left = played([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    with pytest.raises(Disconnected):
        await read_body(left, [], bounds(3, within=LONG), "task hm1")


async def test_large_bodies_that_arrive_are_bounded_in_all() -> None:
    part = b"a" * (UNCOUNTED_BYTES + 1)
    bounded = bounds(1 << 30, within=LONG, room=2 * len(part))

    assert len(await read_body(sent(part), [], bounded, "task hm1")) == len(part)
    with pytest.raises(Overloaded):
        await read_body(sent(part, part), [], bounded, "task hm1")
    assert len(await read_body(sent(part[1:]), [], bounds(1 << 30, within=LONG, room=0), "task hm1")) > 0
    assert bounded.room.left == 2 * len(part), "all of it is given back"


async def waiting(deadline: Deadline, gate: asyncio.Event) -> str:
    try:
        with deadline:
            await gate.wait()
    except Late:
        return "late"
    return "in time"


async def test_of_many_that_wait_those_whose_time_is_up_are_told() -> None:
    deadline, gate, never = Deadline(SHORT), asyncio.Event(), asyncio.Event()
    waits = [asyncio.create_task(waiting(deadline, event)) for event in (never, gate, never)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waits) == ["late", "in time", "late"]
    # Nothing is left over for those that wait afterwards.
    assert await waiting(deadline, gate) == "in time"
    assert await waiting(deadline, never) == "late"


@pytest.mark.parametrize("earlier", [0.0, 0.24, 0.26, 0.9])
async def test_nobody_is_told_before_the_time_is_up_nor_long_after(earlier: float) -> None:
    deadline, clock = Deadline(SHORT), asyncio.get_running_loop().time
    other = asyncio.create_task(waiting(deadline, asyncio.Event()))  # starts the timer that all share
    await asyncio.sleep(earlier * SHORT.total_seconds())
    began = clock()
    assert await waiting(deadline, asyncio.Event()) == "late"
    assert SHORT.total_seconds() <= clock() - began < 5, "told at the wrong time"
    assert await other == "late"


async def test_many_short_waits_are_not_one_long_one() -> None:
    deadline, began = Deadline(SHORT), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 3 * SHORT.total_seconds():
        with deadline:
            await asyncio.sleep(0)


def test_on_another_loop_than_before_the_time_is_up_as_well() -> None:
    deadline, before = Deadline(SHORT), asyncio.new_event_loop()
    forgotten = before.create_task(waiting(deadline, asyncio.Event()))
    before.run_until_complete(asyncio.sleep(0))
    before.close()
    for _ in range(2):
        assert asyncio.run(waiting(deadline, asyncio.Event())) == "late"
    assert not forgotten.done()


async def test_those_who_wait_are_counted() -> None:
    deadline, gate = Deadline(LONG), asyncio.Event()
    waits = [asyncio.create_task(waiting(deadline, gate)) for _ in range(3)]
    await asyncio.sleep(0)
    assert deadline.waiting == 3
    waits[0].cancel()
    gate.set()
    assert await asyncio.gather(*waits[1:]) == ["in time", "in time"]
    assert deadline.waiting == 0


async def test_one_that_is_cancelled_is_not_late_but_gone() -> None:
    deadline = Deadline(LONG)
    wait = asyncio.create_task(waiting(deadline, asyncio.Event()))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


async def test_one_that_is_cancelled_as_its_time_is_up_is_gone_too() -> None:
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


async def test_an_error_in_time_is_that_error() -> None:
    with pytest.raises(ZeroDivisionError), Deadline(LONG):
        raise ZeroDivisionError


def kept(bound: UnsignedBound, address: str, count: int, *, now: datetime = NOW, per_minute: int = 30) -> int:
    return sum(bound.take(address, per_minute=per_minute, now=now) is None for _ in range(count))


def test_as_many_hints_as_the_rate_are_kept_at_once() -> None:
    assert kept(UnsignedBound(most=9), "task a", 100) == 30


def test_a_place_becomes_free_as_time_goes_by() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 30) == 30
    wait = bound.take("task a", per_minute=30, now=NOW)
    assert wait == timedelta(seconds=2)
    assert kept(bound, "task a", 5, now=NOW + wait) == 1
    assert kept(bound, "task a", 100, now=NOW + timedelta(hours=1)) == 30


def test_one_address_does_not_use_up_anothers_places() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 100) == 30
    assert kept(bound, "task b", 100) == 30


def test_a_clock_that_is_set_back_gives_no_places() -> None:
    bound = UnsignedBound(most=9)
    assert kept(bound, "task a", 30) == 30
    assert kept(bound, "task a", 5, now=NOW - timedelta(days=1)) == 0


def test_only_the_latest_addresses_are_counted() -> None:
    bound = UnsignedBound(most=2)
    for address in ("a", "b", "a", "c"):
        assert kept(bound, address, 1, per_minute=2) == 1
    assert len(bound) == 2
    assert bound.take("a", per_minute=2, now=NOW) is not None, "the address heard last was forgotten"
