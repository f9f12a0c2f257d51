"""A proxy between Homing and its provider that a test can cut, hold or answer: real sockets, plain HTTP/1.1.

Every connection carries one request. A script sees it first and decides: ``await request.forward()`` brings the
provider's true reply; the return value of the script goes to Homing; None drops the connection.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.stream_sending import send

# Loopback speaks plain HTTP; reading the usual certificates would take longer than most tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PASSED = {"authorization", "content-type"}
OMNI = "/v1/images/omni-image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    forward: Callable[[], Awaitable[Answer]]

    async def forwarded(self) -> Answer | None:
        """Pass it on: the script that changes nothing."""
        return await self.forward()

    @property
    def creates(self) -> bool:
        return self.method == "POST" and self.target == OMNI

    @property
    def batches(self) -> bool:
        return self.method == "GET" and self.target.startswith("/tasks?")

    @property
    def asks_one(self) -> bool:
        return self.method == "GET" and self.target.startswith(f"{OMNI}/")


Script = Callable[[Request], Awaitable[Answer | None]]


class ProviderProxy:
    """The line: ``script`` may be replaced at any time, ``seen`` holds every request that came."""

    def __init__(self, provider_url: str, script: Script) -> None:
        self.script = script
        self.seen: list[Request] = []
        self.base_url = ""
        self._http = httpx.AsyncClient(base_url=provider_url, timeout=30, trust_env=False, verify=NO_TLS)
        self._connections: set[asyncio.Task[None]] = set()

    def count(self, matches: Callable[[Request], bool]) -> int:
        return sum(matches(request) for request in self.seen)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            answer = await self._answer(reader)
            if answer is None:
                return
            lines = [f"HTTP/1.1 {answer.status} -", f"content-length: {len(answer.body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in answer.headers.items()]
            await send(writer, "\r\n".join([*lines, "", ""]).encode() + answer.body)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, httpx.HTTPError, asyncio.CancelledError):
            # Only ``close`` cancels, and no caller uses the return value.
            return
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> Answer | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))

        async def forward() -> Answer:
            passed: dict[str, str] = {
                name: headers[name] for name in ("authorization", "content-type") if name in headers
            }
            reply = await self._http.request(method, target, content=body, headers=passed)
            return Answer(
                status=reply.status_code, body=reply.content, headers={"content-type": reply.headers["content-type"]}
            )

        request = Request(method=method, target=target, headers=headers, body=body, forward=forward)
        self.seen.append(request)
        return await self.script(request)

    async def close(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._http.aclose()
        # An aborted transport lets go of its socket in the loop's next round.
        await asyncio.sleep(0)


@asynccontextmanager
async def provider_proxy(provider_url: str, script: Script = Request.forwarded) -> AsyncIterator[ProviderProxy]:
    line = ProviderProxy(provider_url, script)
    server = await asyncio.start_server(line, "127.0.0.1", 0)
    line.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield line
    finally:
        server.close()
        await line.close()


def refusal(status: int, code: int, message: str = "made up", **headers: str) -> Answer:
    """Return an answer in the provider's envelope."""
    body: dict[str, Any] = {"code": code, "message": message, "request_id": "made-up-request"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, body=json.dumps(body).encode(), headers={"content-type": "application/json"} | named)


def page(status: int, text: str = "<html>Bad Gateway</html>") -> Answer:
    """Return an error response that a proxy creates itself."""
    return Answer(status=status, body=text.encode(), headers={"content-type": "text/html"})
