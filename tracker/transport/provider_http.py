"""HTTP calls to providers, at the URLs of the settings."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import httpx

from tracker.errors import NotSent, ReplyLost
from tracker.providers.base import Account, Call, Reply
from tracker.transport.connect_errors import connect_problem
from tracker.transport.heads import BoundedBackend

REPLY_LIMIT: Final = 16 * 1024 * 1024
CONNECT_SECONDS: Final = 5.0
CONNECTIONS: Final = 64


class Transport:
    """A pool of connections to providers. ``async with`` opens and closes it."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS),
            follow_redirects=False,
            headers={"user-agent": "homing", "accept": "application/json"},
        )
        _bound_heads(self._client)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        """Send ``call`` and read its whole reply ``within`` the given time, or raise NotSent or ReplyLost."""
        if self._client is None:
            raise NotSent("the transport is closed")
        seconds = within.total_seconds()
        content_type = {"content-type": "application/json"} if call.body else {}
        headers = {**content_type, **account.provider.authorization(account.credential, now)}
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(self._client, account.base_url, call, headers, seconds)
        except httpx.PoolTimeout as error:
            raise NotSent("every connection to the provider is in use") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise NotSent(connect_problem(error)) from error
        except TimeoutError as error:
            raise ReplyLost(f"no answer within {seconds:g} s") from error
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise ReplyLost(f"the connection failed: {type(error).__name__}") from error

    @staticmethod
    async def _exchange(
        client: httpx.AsyncClient, base_url: str, call: Call, headers: Mapping[str, str], seconds: float
    ) -> Reply:
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        request = client.build_request(
            call.method,
            base_url + call.path,
            params=dict(call.query) or None,
            content=call.body or None,
            headers=headers,
            timeout=timeout,
        )
        response = await client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > REPLY_LIMIT:
                    raise ReplyLost(f"the answer is longer than {REPLY_LIMIT} bytes")
        finally:
            await response.aclose()
        lower = {name.lower(): value for name, value in response.headers.items()}
        return Reply(status=response.status_code, headers=lower, body=bytes(body))


def _bound_heads(client: httpx.AsyncClient) -> None:
    """Limit the bytes before an answer on the client's connections, also on those to proxies."""
    # httpx accepts no network backend, and creates the transports of proxies itself.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - see above
        if isinstance(transport, httpx.AsyncHTTPTransport):
            pool = transport._pool  # noqa: SLF001 - see above
            pool._network_backend = BoundedBackend(pool._network_backend)  # noqa: SLF001 - see above
