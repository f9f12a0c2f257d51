"""The wait of every loop between two rounds, which ends at once where the loop is told to stop."""

import asyncio
from datetime import timedelta


async def pause(stop: asyncio.Event, duration: timedelta) -> bool:
    """Wait for ``duration``, or until ``stop``; tell whether to stop."""
    try:
        async with asyncio.timeout(duration.total_seconds()):
            await stop.wait()
    except TimeoutError:
        return False
    return True
