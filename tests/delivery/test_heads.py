"""Servers that send endless response heads: the call fails soon, and a few interim responses are skipped."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tracker.errors import ReplyLost
from tracker.model.targets import read_allowed
from tracker.providers.base import Account, ApiKey, Call
from tracker.providers.kling import Kling
from tracker.transport import Poster, Transport
from tracker.transport.heads import INTERIM_RESPONSES

WITHIN = timedelta(seconds=30)
UNVERIFIED = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
ENOUGH = 64 << 20

Send = Callable[[str], Awaitable[int]]


async def post(url: str) -> int:
    poster = Poster(read_allowed(("127.0.0.0/8",)))
    await poster.open()
    try:
        return (await poster.post(f"{url}/hook", b"{}", {}, within=WITHIN)).status
    finally:
        await poster.close()


async def call(url: str) -> int:
    transport = Transport()
    await transport.open()
    account = Account(name="kling", provider=Kling(), base_url=url, credential=ApiKey(key="made-up-key"))
    try:
        reply = await transport.send(account, Call(method="GET", path="/tasks"), now=datetime.now(UTC), within=WITHIN)
    finally:
        await transport.close()
    return reply.status


@asynccontextmanager
async def server(*pieces: bytes, endless: bytes = b"") -> AsyncIterator[tuple[str, list[int]]]:
    """Answer each request with the pieces in order, then with ``endless`` until the client disconnects."""
    sent: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            while endless and sum(sent) < ENOUGH:
                writer.write(endless)
                await writer.drain()
                sent.append(len(endless))
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", sent


@pytest.mark.parametrize("send", [post, call])
@pytest.mark.parametrize("endless", [UNVERIFIED * 100, b"HTTP/1.1 103 Early Hints\r\nx: " + b"a" * 9000, b"\r\n" * 500])
async def test_endless_response_head_is_not_read(send: Send, endless: bytes) -> None:
    async with server(endless=endless) as (url, sent):
        with pytest.raises(ReplyLost, match="connection"):
            await send(url)

    assert sum(sent) < ENOUGH


@pytest.mark.parametrize("send", [post, call])
async def test_few_interim_responses_are_skipped(send: Send) -> None:
    answer = UNVERIFIED * INTERIM_RESPONSES + FINAL
    for pieces in ([answer], [answer[:50], answer[50:]], [answer[at : at + 1] for at in range(len(answer))]):
        async with server(*pieces) as (url, _):
            assert await send(url) == 200


@pytest.mark.parametrize("send", [post, call])
async def test_too_many_interim_responses_end_the_call(send: Send) -> None:
    async with server(UNVERIFIED * (INTERIM_RESPONSES + 1) + FINAL) as (url, _):
        with pytest.raises(ReplyLost, match="connection"):
            await send(url)
