"""Requests to an ASGI app in this process, without a socket and without an HTTP library."""

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlencode

from homing.commands.client import Params
from tracker.model.untrusted import JsonObject

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

HOST: Final = "127.0.0.1"


class AsgiExchange:
    """Requests to ``app`` as from this machine; ``headers`` are sent with each."""

    origin = HOST
    has_server = False

    def __init__(self, app: "ASGIApp", headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = {"host": HOST, **headers}

    async def request(
        self, method: str, path: str, *, params: Params | None, body: JsonObject | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer. A crash of the app is a status 500."""
        content = b"" if body is None else json.dumps(body).encode()
        sent = {**self._headers, **headers}
        if body is not None:
            sent |= {"content-type": "application/json", "content-length": str(len(content))}
        status, pieces, unread = int(HTTPStatus.INTERNAL_SERVER_ERROR), [], [content]

        async def receive() -> "Message":
            if not unread:
                # A client that stays: only its end would be a message.
                await asyncio.Event().wait()
            return {"type": "http.request", "body": unread.pop(), "more_body": False}

        async def send(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))

        try:
            await self._app(_scope(method, path, params, sent), receive, send)
        except Exception:  # noqa: BLE001 - the app has logged it
            return HTTPStatus.INTERNAL_SERVER_ERROR, b""
        return status, b"".join(pieces)


def _scope(method: str, path: str, params: Params | None, headers: Mapping[str, str]) -> "Scope":
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": (urlencode(params, doseq=True) if params else query).encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": (HOST, 0),
        "server": (HOST, 80),
    }
