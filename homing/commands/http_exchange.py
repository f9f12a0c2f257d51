"""Requests to a server over HTTP."""

from collections.abc import Mapping
from typing import Final

import httpx

from homing.commands.client import Lost, Params
from tracker.model.untrusted import JsonObject

TIMEOUT: Final = httpx.Timeout(30, connect=5)


class HttpExchange:
    """Requests over a client, which is the caller's to close."""

    has_server = True

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @property
    def origin(self) -> str:
        """The host and port of the server."""
        return self._http.base_url.netloc.decode()

    async def request(
        self, method: str, path: str, *, params: Params | None, body: JsonObject | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer. Raises Lost."""
        try:
            answer = await self._http.request(method, path, params=params, json=body, headers=headers)
        except httpx.TimeoutException:
            raise Lost(f"no answer from {self._http.base_url} within {TIMEOUT.read:g} s") from None
        except httpx.HTTPError as error:
            raise Lost(f"{self._http.base_url} cannot be reached ({type(error).__name__})") from None
        return answer.status_code, answer.content
