"""HTTP requests to URLs that clients may have chosen.

So a ``Poster`` checks each address to which a name resolves, and connects to a checked one. httpcore accepts a network
backend for that (https://www.encode.io/httpcore/network-backends/), httpx does not.
"""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final
from urllib.parse import unquote

import httpcore
import httpx

from tracker.errors import HomingError, NotSent, ReplyLost
from tracker.model.targets import Allowed, refusal
from tracker.transport.connect_errors import connect_problem
from tracker.transport.heads import BoundedBackend
from tracker.transport.provider_http import CONNECT_SECONDS

# The limits of one poster: open connections (many more than one slow endpoint can use), idle connections, how long
# these stay open (endpoints commonly close theirs after five seconds), and parallel name lookups.
POSTS: Final = 256
IDLE_POSTS: Final = 32
IDLE_SECONDS: Final = 4.0
LOOKUPS: Final = 8
# The body of an answer is ignored. It is only read so that the connection can be used again.
ANSWER_LIMIT: Final = 4 * 1024
ANSWER_SECONDS: Final = 1.0


class TargetRefused(HomingError):
    """The target is not allowed. Nothing was sent."""

    title = "Target refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of an endpoint: its status and its ``Retry-After``, empty if there was none."""

    status: int
    retry_after: str = ""


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Poster:
    """Sends POST requests to untrusted URLs, over at most ``POSTS`` connections and without a proxy.

    ``resolve`` returns the addresses of a host (None: the system's resolver). ``trust`` has the certificates (None: the
    usual ones, or SSL_CERT_FILE).
    """

    def __init__(
        self, allowed: Allowed, *, resolve: Resolve | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._trust = trust
        self._pools: Mapping[bytes, httpcore.AsyncConnectionPool] = {}
        self._lookups: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        await self.close()
        trust = self._trust or await asyncio.to_thread(httpx.create_ssl_context)
        # It has its own threads: untrusted names may resolve slowly, and nothing else must wait for them.
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="homing names")
        resolve = self._resolve or partial(_look_up, self._lookups)
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=trust,
                max_connections=POSTS,
                max_keepalive_connections=IDLE_POSTS,
                keepalive_expiry=IDLE_SECONDS,
                network_backend=_Guarded(self._allowed, resolve, encrypted=scheme == b"https"),
            )
            for scheme in (b"https", b"http")
        }

    async def close(self) -> None:
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()
        if self._lookups is not None:
            self._lookups.shutdown(wait=False, cancel_futures=True)
            self._lookups = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, within: timedelta) -> Answer:
        """Send one POST request and return the answer. A redirect is an answer.

        Raises: TargetRefused, NotSent or ReplyLost. Their texts repeat only the host of the URL.
        """
        seconds = within.total_seconds()
        try:
            target = httpx.URL(url)
            pool = self._pools[target.raw_scheme]
        except (httpx.InvalidURL, KeyError, UnicodeError):
            raise NotSent("its address cannot be read, or it is closed") from None
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(pool, target, body, headers)
        except TimeoutError as error:
            raise ReplyLost(f"no answer within {seconds:g} s") from error
        except httpcore.ConnectTimeout as error:
            raise NotSent(f"could not connect within {CONNECT_SECONDS:g} s") from error
        except httpcore.ConnectError as error:
            raise NotSent(connect_problem(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise ReplyLost("the connection broke before an answer") from error

    @staticmethod
    async def _exchange(
        pool: httpcore.AsyncConnectionPool, target: httpx.URL, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        url = httpcore.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path or b"/"
        )
        named = {"host": target.netloc.decode(), "user-agent": "homing", **_basic(target), **headers}
        sent = [(name.encode(), value.encode()) for name, value in named.items()]
        timeouts = {"timeout": {"connect": CONNECT_SECONDS}}
        async with pool.stream("POST", url, headers=sent, content=body, extensions=timeouts) as response:
            fields = {name.lower(): value for name, value in response.headers}
            with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await _read_little(response)
        return Answer(status=response.status, retry_after=fields.get(b"retry-after", b"").decode("latin-1").strip())


async def dial_target(
    host: str, port: int, allowed: Allowed, *, encrypted: bool, trust: ssl.SSLContext | None = None
) -> None:
    """Connect to a host like a Poster, with TLS if ``encrypted``, and send nothing.

    Raises: TargetRefused, NotSent.
    """
    with ThreadPoolExecutor(1) as lookups:
        backend = _Guarded(allowed, partial(_look_up, lookups), encrypted=encrypted)
        try:
            stream = await backend.connect_tcp(host, port, CONNECT_SECONDS)
            if encrypted:
                if trust is None:
                    trust = await asyncio.to_thread(httpx.create_ssl_context)
                stream = await stream.start_tls(trust, host, CONNECT_SECONDS)
            await stream.aclose()
        except httpcore.ConnectTimeout:
            raise NotSent(f"could not connect within {CONNECT_SECONDS:g} s") from None
        except httpcore.ConnectError as error:
            raise NotSent(connect_problem(error)) from None


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses. TLS still verifies the host name."""

    def __init__(self, allowed: Allowed, resolve: Resolve, *, encrypted: bool) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._encrypted = encrypted
        self._network = BoundedBackend(httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        until = loop.time() + (CONNECT_SECONDS if timeout is None else timeout)
        try:
            async with asyncio.timeout_at(until):
                addresses = await _checked(host, port, self._allowed, self._resolve, encrypted=self._encrypted)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        failure: Exception = httpcore.ConnectTimeout()
        for number, address in enumerate(addresses):
            # An address that does not answer must leave time for the next one.
            share = max(until - loop.time(), 0) / (len(addresses) - number)
            try:
                return await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


async def _checked(host: str, port: int, allowed: Allowed, resolve: Resolve, *, encrypted: bool) -> Sequence[str]:
    """Return the addresses of a host. Raises TargetRefused if one of them is not allowed."""
    try:
        addresses = list(dict.fromkeys(await resolve(host, port)))
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError from error
    for address in addresses:
        if (why := refusal(host, address, allowed, encrypted=encrypted)) is not None:
            raise TargetRefused(f"{host} is refused: {why}")
    if not addresses:
        raise httpcore.ConnectError
    return addresses


async def _look_up(threads: ThreadPoolExecutor, host: str, port: int) -> Sequence[str]:
    lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(threads, lookup)
    return [str(sockaddr[0]) for *_, sockaddr in found]


async def _read_little(response: httpcore.Response) -> None:
    """Read a short body to its end. The connection of a longer one is closed."""
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read > ANSWER_LIMIT:
            return


def _basic(target: httpx.URL) -> Mapping[str, str]:
    """Return the header for the credential in a URL."""
    if not target.userinfo:
        return {}
    user, _, password = target.userinfo.decode().partition(":")
    pair = f"{unquote(user)}:{unquote(password)}".encode()
    return {"authorization": f"Basic {b64encode(pair).decode()}"}
