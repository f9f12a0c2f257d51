"""Requests to the ASGI app of a simulated process, without a socket: they may break off, and a kill breaks them off."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Scope

from tests.simulation.virtual_loop import Life

HOST: Final = "homing.example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Broken(Exception):
    """The connection broke before the whole response came."""


class Exchange:
    """One request and its response, as an ASGI app sees them; ``answer`` is the whole response."""

    def __init__(self, method: str, url: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(url)
        all_headers = {"host": HOST, "content-length": str(len(body)), **headers}
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in all_headers.items()],
            "client": ("203.0.113.7", 40000),
            "server": (HOST, 443),
            "state": {},
        }
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.left = asyncio.Event()
        self._unsent: bytes | None = body
        self._got: dict[str, Any] = {"status": 0, "headers": {}, "body": b""}

    async def serve(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        finally:
            if not self.answer.done():
                self.answer.set_exception(Broken("the app sent no whole answer"))

    async def _receive(self) -> Message:
        body, self._unsent = self._unsent, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        got = self._got
        if message["type"] == "http.response.start":
            got["status"] = message["status"]
            got["headers"] = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            return
        got["body"] += message.get("body", b"")
        if not message.get("more_body") and not self.answer.done():
            self.answer.set_result(Answer(**got))


async def call(
    app: ASGIApp,
    life: Life,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    body: bytes = b"",
    hang_up_after: float | None = None,
) -> Answer:
    """Send one request to a process and return its answer. Raises Broken if the process dies or the client leaves."""
    if not life.alive:
        raise Broken("nothing listens")
    exchange = Exchange(method, url, headers, body)
    answer = exchange.answer
    life.start(exchange.serve(app))
    life.connections.append(answer)
    try:
        async with asyncio.timeout(hang_up_after):
            return await asyncio.shield(answer)
    except TimeoutError:
        raise Broken("the client hung up") from None
    except ConnectionResetError as error:
        raise Broken(str(error)) from None
    finally:
        exchange.left.set()
        life.connections.remove(answer)
        answer.cancel()
