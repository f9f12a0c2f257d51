"""The proxy between Homing and a broker raises nothing when a test cuts it."""

import asyncio
from typing import Any

from tests.support.brokers.proxy import proxy
from tests.support.brokers.servers import LOCALHOST
from tests.support.conditions import until


async def test_proxy_cut_with_buffered_data_raises_nothing() -> None:
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    arrived = asyncio.Event()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(broker, LOCALHOST, 0)
    async with proxy(server.sockets[0].getsockname()[1]) as line:
        _, writer = await asyncio.open_connection(LOCALHOST, line.port)
        await arrived.wait()
        line.flows.clear()
        writer.write(b"held back")
        await until(lambda: line.holding == 1)

        line.cut()
        line.flows.set()
        await until(lambda: line.open == 0)

        writer.close()
    server.close()
    assert raised == []
