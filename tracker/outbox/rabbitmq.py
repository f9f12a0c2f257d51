"""``amqp://user:password@host/vhost?exchange=homing`` and ``amqps://…``: RabbitMQ, a routing key per type of event.

Messages are persistent and confirmed; attributes are headers, as the CloudEvents binding for RabbitMQ says
(https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md), and the event's
id is the message's.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import Final

from aiormq import Connection, TransportFactory
from aiormq.channel import Channel
from aiormq.exceptions import ChannelPreconditionFailed, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.common import FieldTable
from yarl import URL

from tracker.contract import JSON_TYPE, Told, attributes
from tracker.outbox.broker import UNCONFIRMED, Endpoint, failed, said, too_large
from tracker.outbox.sink import DELIVERED, Outcome

EXCHANGE: Final = "homing"
PORTS: Final = {"amqp": 5672, "amqps": 5671}
PREFIX: Final = "ce-"
PERSISTENT: Final = 2
HEARTBEAT: Final = "10"
# What a broker refuses a message with that is too large for it; it ends the channel, and so fails the whole wave.
_LIMIT: Final = re.compile(r"larger than configured max size (\d+)")


def wire(endpoint: Endpoint, source: str) -> "RabbitWire":
    """Read an address and its options: exchange, declare, mandatory, headers, timeout, ca, cert, key."""
    return RabbitWire(endpoint, source)


class RabbitWire:
    """Publishes a wave at once and waits for the broker's confirmation of each message."""

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._source = source
        self._within = endpoint.within
        self._exchange = endpoint.text("exchange", EXCHANGE)
        self._declare = endpoint.flag("declare", default=True)
        self._mandatory = endpoint.flag("mandatory", default=True)
        self._prefix = endpoint.text("headers", PREFIX)
        self._tls = endpoint.tls() if endpoint.scheme == "amqps" else None
        self._url = _url(endpoint)
        # How much the broker takes, once it has said so.
        self._largest: int | None = None
        self._socket: _Socket | None = None
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._doubt = False

    @property
    def sound(self) -> bool:
        return self._channel is not None and not self._channel.is_closed and not self._doubt

    async def dial(self) -> None:
        await self.hang_up()
        self._socket = _Socket(self._tls)
        self._connection = connection = Connection(self._url, transport_factory=self._socket)
        await connection.connect()
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        assert isinstance(channel, Channel)
        self._channel = channel
        if self._declare:
            await channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        self._doubt = False

    async def publish(self, events: Sequence[Told]) -> Sequence[Outcome]:
        assert self._channel is not None
        fitting = [told for told in events if self._largest is None or len(told.body) <= self._largest]
        sending = {told.id: asyncio.create_task(self._put(self._channel, told)) for told in fitting}
        if sending:
            _, late = await asyncio.wait(sending.values(), timeout=self._within)
            self._doubt = bool(late)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return [self._outcome(told, sending.get(told.id)) for told in events]

    async def hang_up(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        socket, self._socket = self._socket, None
        try:
            if connection is not None and not self._doubt:
                await connection.close()
        finally:
            # What it still holds must not come later than what is told next.
            if socket is not None:
                socket.abort()

    async def _put(self, channel: Channel, told: Told) -> None:
        headers: FieldTable = {self._prefix + name: value for name, value in attributes(told, self._source).items()}
        del headers[f"{self._prefix}datacontenttype"]
        properties = Basic.Properties(
            content_type=JSON_TYPE,
            delivery_mode=PERSISTENT,
            message_id=told.id,
            message_type=told.type,
            timestamp=told.at,
            headers=headers,
        )
        await channel.basic_publish(
            told.body,
            exchange=self._exchange,
            routing_key=told.type,
            properties=properties,
            mandatory=self._mandatory,
            wait=False,
        )

    def _outcome(self, told: Told, sending: asyncio.Task[None] | None) -> Outcome:
        if sending is None:
            return too_large(len(told.body), self._largest or 0)
        if sending.cancelled():
            return failed(UNCONFIRMED)
        error = sending.exception()
        return DELIVERED if error is None else self._failure(told, error)

    def _failure(self, told: Told, error: BaseException) -> Outcome:
        if isinstance(error, PublishError):
            return failed(f"no queue is bound to exchange {self._exchange} for {told.type}")
        if isinstance(error, DeliveryError):
            return failed("refused by a queue, which may be full")
        if isinstance(error, ChannelPreconditionFailed) and (limit := _LIMIT.search(str(error))):
            self._largest = int(limit[1])
            if len(told.body) > self._largest:
                return too_large(len(told.body), self._largest)
        return failed(said(error))


class _Socket(TransportFactory):
    """The connection below the protocol, to end it although the broker reads no more."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **_: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await asyncio.open_connection(url.host, url.port, ssl=self._tls)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _url(endpoint: Endpoint) -> URL:
    """Give the address as the client takes it: only the vhost and the heartbeat are left to say."""
    return URL.build(
        scheme=endpoint.scheme,
        user=endpoint.user,
        password=endpoint.password,
        host=endpoint.host,
        port=endpoint.port or PORTS[endpoint.scheme],
        path=f"/{endpoint.path.replace('/', '%2F')}",
        query={"heartbeat": HEARTBEAT},
        encoded=False,
    )
