"""``redis://host:6379/0?stream=homing:events`` and ``rediss://…``: a Redis stream with a maximum length.

CloudEvents has no binding for Redis. An entry has a field with the name of each attribute, and ``data``, the JSON.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.broker import DIALLING, HANGING_UP, UNCONFIRMED, Endpoint, failed, forget, said, too_large
from tracker.model.event import PublishedEvent, attributes

PORT: Final = 6379
STREAM: Final = "homing:events"
MAXLEN: Final = 1_000_000
# The largest value, unless the server reports another:
# https://redis.io/docs/latest/operate/oss_and_stack/reference/internals
LARGEST: Final = 512 * 1024 * 1024
LIMIT: Final = "proto-max-bulk-len"


def wire(endpoint: Endpoint, source: str) -> "RedisWire":
    """Read a URL and its options: stream, maxlen, timeout, ca, cert, key."""
    return RedisWire(endpoint, source)


class RedisWire:
    """Adds a wave in one pipeline. The ID of each entry is its confirmation."""

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        if not (endpoint.path or "0").isdigit():
            raise ValueError("the path of its URL is not a database number. Write one such as /0")
        self._source = source
        self._within = endpoint.within
        self._stream = endpoint.text("stream", STREAM)
        self._maxlen = endpoint.number("maxlen", MAXLEN)
        self._options = _options(endpoint)
        self._client: redis.asyncio.Redis | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._largest = LARGEST
        self._doubt = False

    @property
    def sound(self) -> bool:
        return self._client is not None and not self._doubt

    async def dial(self) -> None:
        await self.hang_up()
        self._client = client = redis.asyncio.Redis(**self._options)
        pool: Any = client.connection_pool
        connection = await pool.get_connection()
        # The sink needs the transport to end a connection whose server stopped reading. The client cannot do that.
        self._transport = connection._writer.transport  # noqa: SLF001 - see above
        await pool.release(connection)
        try:
            self._largest = int((await client.config_get(LIMIT))[LIMIT] or LARGEST)
        except (ResponseError, KeyError):
            # Some servers do not report it.
            self._largest = LARGEST
        self._doubt = False

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        assert self._client is not None
        pipeline = self._client.pipeline(transaction=False)
        # A value above the limit would end the connection, and so the whole wave would fail.
        fitting = [event for event in events if len(event.body) <= self._largest]
        for event in fitting:
            fields: dict[Any, Any] = {**attributes(event, self._source), "data": event.body}
            pipeline.xadd(self._stream, fields, maxlen=self._maxlen, approximate=True)
        replies = await self._execute(pipeline, len(fitting)) if fitting else []
        of = {event.id: self._outcome(reply) for event, reply in zip(fitting, replies, strict=True)}
        return [of.get(event.id) or too_large(len(event.body), self._largest) for event in events]

    async def hang_up(self) -> None:
        client, self._client = self._client, None
        transport, self._transport = self._transport, None
        if transport is not None:
            # Data that the transport still holds must not arrive after later data.
            transport.abort()
        if client is not None:
            await client.connection_pool.disconnect()

    async def _execute(self, pipeline: Pipeline, count: int) -> Sequence[object]:
        """Return a reply or an error for each command, within the time limit."""
        sending = asyncio.create_task(pipeline.execute(raise_on_error=False))
        sending.add_done_callback(forget)
        late = True
        try:
            await asyncio.wait([sending], timeout=self._within)
            late = not sending.done()
        finally:
            if late:
                await self._break_off(sending)
        error = RedisError(UNCONFIRMED) if late else sending.exception()
        return sending.result() if error is None else [RedisError(said(error))] * count

    async def _break_off(self, sending: asyncio.Task[Any]) -> None:
        # The client can lose a cancellation while it waits. Without its connection, the client ends in any case.
        if self._transport is not None:
            self._transport.abort()
        sending.cancel()
        await asyncio.wait([sending], timeout=HANGING_UP)

    def _outcome(self, reply: object) -> Outcome:
        if not isinstance(reply, Exception):
            return DELIVERED
        # The server may be a replica now, or still loading. Another connection may reach a server that can write.
        self._doubt = True
        return failed(said(reply))


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Return the options for the client's connection. The client retries nothing by itself."""
    options: dict[str, Any] = {
        "host": endpoint.host,
        "port": endpoint.port or PORT,
        "db": int(endpoint.path or 0),
        "username": endpoint.user or None,
        "password": endpoint.password,
        "client_name": "homing",
        "socket_connect_timeout": DIALLING,
        "socket_timeout": endpoint.within,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": 1,
    }
    if endpoint.scheme == "rediss":
        endpoint.tls()
        options |= {
            "ssl": True,
            "ssl_ca_certs": endpoint.text("ca") or None,
            "ssl_certfile": endpoint.text("cert") or None,
            "ssl_keyfile": endpoint.text("key") or None,
        }
    return options
