"""Signing in to a Kafka broker by SASL/PLAIN, which the broker of the wheel does not know: the proxy before it does it.

How it goes: https://kafka.apache.org/protocol#sasl_handshake
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.support.brokers.certificates import Certificate
from tests.support.brokers.proxy import Proxy
from tests.support.stream_sending import send

HANDSHAKE: Final = 17
AUTHENTICATE: Final = 36
REFUSED: Final = 58
NOTHING: Final = b"\xff\xff"


class SignedIn(Proxy):
    """Forward clients that know the password. Earlier requests are forwarded and answered one by one."""

    def __init__(self, user: str, password: str, certificate: Certificate) -> None:
        super().__init__(0, certificate.shown())
        self._right = f"\0{user}\0{password}".encode()

    async def _may_pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> bool:
        try:
            while True:
                request = await _frame(reader)
                key, version, number, name = struct.unpack_from(">hhih", request)
                payload = request[10 + max(name, 0) :]
                if key == HANDSHAKE:
                    await _answer(writer, number, struct.pack(">hih", 0, 1, 5) + b"PLAIN")
                elif key == AUTHENTICATE:
                    right = payload[4:] == self._right
                    why = NOTHING if right else struct.pack(">h", 12) + b"who are you?"
                    lifetime = bytes(8) if version else b""
                    refusal = struct.pack(">h", 0 if right else REFUSED)
                    await _answer(writer, number, refusal + why + bytes(4) + lifetime)
                    return right
                else:
                    await send(forth, struct.pack(">i", len(request)) + request)
                    answer = await _frame(back)
                    await send(writer, struct.pack(">i", len(answer)) + answer)
        except EOFError:
            return False


@asynccontextmanager
async def signed_in(user: str, password: str, certificate: Certificate) -> AsyncIterator[SignedIn]:
    line = SignedIn(user, password, certificate)
    await line.listen()
    try:
        yield line
    finally:
        await line.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _answer(writer: asyncio.StreamWriter, number: int, payload: bytes) -> None:
    await send(writer, struct.pack(">ii", 4 + len(payload), number) + payload)
