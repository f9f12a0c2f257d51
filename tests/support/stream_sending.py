"""Write to a stream whose other end may be gone."""

import asyncio


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write and wait until there is room again; a closed connection is a ConnectionResetError on every event loop.

    Without the look before, uvloop raises a RuntimeError and asyncio's own loop nothing.
    """
    if writer.is_closing():
        raise ConnectionResetError("the connection is closed")
    writer.write(data)
    await writer.drain()
