"""Awaits several things at once: all of a few at a time, or the first of some events."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from datetime import timedelta
from typing import Final, TypeVar

T = TypeVar("T")
log = logging.getLogger("homing.reconciler")

AT_ONCE: Final = 16


async def gathered(things: Iterable[Coroutine[None, None, T]], *, at_once: int = AT_ONCE) -> list[T]:
    """Await all, a few at the same time. Log unexpected failures and leave them out."""
    slots = asyncio.Semaphore(at_once)

    async def one(thing: Coroutine[None, None, T]) -> T:
        async with slots:
            return await thing

    ended = await asyncio.gather(*(one(thing) for thing in things), return_exceptions=True)
    done: list[T] = []
    for result in ended:
        if isinstance(result, BaseException):
            log.error("polling a task failed unexpectedly: %s", type(result).__name__)
        else:
            done.append(result)
    return done


async def any_of(*events: asyncio.Event, within: timedelta) -> None:
    """Wait until one of the events is set or the time is over."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
