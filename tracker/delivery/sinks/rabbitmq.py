"""``amqp://user:password@host/vhost?exchange=homing`` and ``amqps://…``: RabbitMQ, a routing key per type of event.

Messages are persistent and confirmed. Attributes are headers, as in the CloudEvents binding for RabbitMQ
(https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md). The event ID is
the message ID.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from itertools import count, takewhile
from typing import Any, Final

from pika import BasicProperties, ConnectionParameters, PlainCredentials, SSLOptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import StreamLostError
from pika.frame import Method
from pika.spec import Basic

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.broker import DIALLING, UNCONFIRMED, Endpoint, failed, said, too_large
from tracker.model.event import JSON_TYPE, PublishedEvent, attributes

EXCHANGE: Final = "homing"
PORTS: Final = {"amqp": 5672, "amqps": 5671}
PREFIX: Final = "ce-"
PERSISTENT: Final = 2
HEARTBEAT: Final = 10
# How many events go to the client before other work may run. A whole wave takes tens of milliseconds.
PIECE: Final = 50
# The client quotes the broker's error text, after its code if there is one.
_QUOTED: Final = re.compile(r"""\((?:\d+\) |\d+, )?['"](.+)['"],?\)?$""")
# The broker's error for a message that is too large. It ends the channel, and so the whole wave fails.
_LIMIT: Final = re.compile(r"larger than configured max size (\d+)")


def wire(endpoint: Endpoint, source: str) -> "RabbitWire":
    """Read a URL and its options: exchange, declare, mandatory, headers, timeout, ca, cert, key."""
    return RabbitWire(endpoint, source)


class RabbitWire:
    """Publishes a wave at once, and waits for the broker's confirmation of each message."""

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._source = source
        self._within = endpoint.within
        self._exchange = endpoint.text("exchange", EXCHANGE)
        self._declare = endpoint.flag("declare", default=True)
        self._mandatory = endpoint.flag("mandatory", default=True)
        self._prefix = endpoint.text("headers", PREFIX)
        self._parameters = _parameters(endpoint)
        # The broker's maximum message size, once it is known.
        self._largest: int | None = None
        self._line: _Line | None = None

    @property
    def sound(self) -> bool:
        return self._line is not None and self._line.sound

    async def dial(self) -> None:
        await self.hang_up()
        # The broker may accept larger messages now.
        self._largest = None
        self._line = _Line(self._parameters)
        await self._line.open(self._exchange if self._declare else None)

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        line = self._line
        assert line is not None
        line.begin()
        fitting = [event for event in events if self._largest is None or len(event.body) <= self._largest]
        for start in range(0, len(fitting), PIECE):
            if line.lost:
                break
            for event in fitting[start : start + PIECE]:
                line.put(event, self._properties(event), exchange=self._exchange, mandatory=self._mandatory)
            await asyncio.sleep(0)
        await line.confirmed(within=self._within)
        return [self._outcome(event, line) for event in events]

    async def hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    def _properties(self, event: PublishedEvent) -> BasicProperties:
        headers = {self._prefix + name: value for name, value in attributes(event, self._source).items()}
        del headers[f"{self._prefix}datacontenttype"]
        return BasicProperties(
            content_type=JSON_TYPE,
            delivery_mode=PERSISTENT,
            message_id=event.id,
            type=event.type,
            timestamp=int(event.at.timestamp()),
            headers=headers,
        )

    def _outcome(self, event: PublishedEvent, line: "_Line") -> Outcome:
        if line.has(event.id):
            return DELIVERED
        if (why := line.refused(event.id)) is not None:
            if isinstance(why, Basic.Return):
                return failed(f"no queue is bound to exchange {self._exchange} for {event.type}")
            return failed("refused by a queue, which may be full")
        if line.lost and (limit := _LIMIT.search(line.lost)):
            self._largest = int(limit[1])
        if self._largest is not None and len(event.body) > self._largest:
            return too_large(len(event.body), self._largest)
        return failed(line.lost or UNCONFIRMED)


class _Line:
    """One connection with one channel and confirmed messages. It turns the client's callbacks into awaitables."""

    def __init__(self, parameters: ConnectionParameters) -> None:
        loop = asyncio.get_running_loop()
        self._up: asyncio.Future[object] = loop.create_future()
        self._down: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[str] = loop.create_future()
        self._settled = asyncio.Event()
        self._tags = count(1)
        self._waiting: dict[int, str] = {}
        self._taken: set[str] = set()
        self._refused: dict[str, object] = {}
        self._uncertain = False
        self._channel: Channel | None = None
        self._connection = _Connection(
            parameters,
            on_open_callback=lambda connection: _settle(self._up, connection),
            on_open_error_callback=lambda _, error: self._end(error),
            on_close_callback=lambda _, error: self._end(error),
            custom_ioloop=loop,
        )

    @property
    def sound(self) -> bool:
        """Return whether the connection is open and has no message of unknown state."""
        return not (self._uncertain or self._ended.done())

    @property
    def lost(self) -> str:
        """The reason why the connection ended, or an empty text while it is open."""
        return self._ended.result() if self._ended.done() else ""

    async def open(self, exchange: str | None) -> None:
        """Wait until the connection is open, and declare ``exchange`` if it is given. Raises ConnectionError."""
        await self._answer(self._up)
        channel: Channel = await self._request(lambda done: self._connection.channel(on_open_callback=done))
        self._channel = channel
        channel.add_on_close_callback(lambda _, why: self._end(why))
        channel.add_on_return_callback(lambda _, why, properties, __: self._refuse(properties.message_id, why))
        await self._request(lambda done: channel.confirm_delivery(self._confirm, done))
        if exchange is not None:
            await self._request(lambda done: channel.exchange_declare(exchange, "topic", durable=True, callback=done))

    def begin(self) -> None:
        """Forget the outcomes of an earlier wave."""
        self._taken.clear()
        self._refused.clear()
        self._settled.set()

    def put(self, event: PublishedEvent, properties: BasicProperties, *, exchange: str, mandatory: bool) -> None:
        """Pass a message to the client, which sends it soon."""
        assert self._channel is not None
        self._settled.clear()
        self._uncertain = True
        self._channel.basic_publish(exchange, event.type, event.body, properties, mandatory)
        self._waiting[next(self._tags)] = event.id

    async def confirmed(self, *, within: float) -> None:
        """Wait until the broker confirmed or refused all messages, the connection ended, or the time is over."""
        settled = asyncio.ensure_future(self._settled.wait())
        either: list[asyncio.Future[Any]] = [settled, self._ended]
        try:
            await asyncio.wait(either, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()
            self._uncertain = bool(self._waiting)

    def has(self, event_id: str) -> bool:
        """Return whether the broker confirmed the event and did not refuse it."""
        return event_id in self._taken and event_id not in self._refused

    def refused(self, event_id: str) -> object | None:
        """Return the broker's refusal of the event, if any."""
        return self._refused.get(event_id)

    async def close(self) -> None:
        """Close the connection. Abort it if a message has an unknown state, so that nothing is sent later."""
        try:
            if self.sound and self._connection.is_open:
                self._connection.close()
                await asyncio.shield(self._down)
        finally:
            self._connection.abort()

    async def _request(self, ask: Callable[[Callable[[object], None]], object]) -> Any:  # noqa: ANN401 - the client's own
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        ask(lambda frame: _settle(answer, frame))
        return await self._answer(answer)

    async def _answer(self, answer: asyncio.Future[object]) -> object:
        either: list[asyncio.Future[Any]] = [answer, self._ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ConnectionError(self.lost)
        return answer.result()

    def _confirm(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        method = frame.method
        # The broker confirms in any order. With "multiple", it confirms all messages up to one.
        upto = [method.delivery_tag]
        if method.multiple:
            upto = list(takewhile(lambda tag: tag <= method.delivery_tag, self._waiting))
        for tag in upto:
            event_id = self._waiting.pop(tag, None)
            if event_id is None:
                continue
            if isinstance(method, Basic.Nack):
                self._refuse(event_id, method)
            else:
                self._taken.add(event_id)
        if not self._waiting:
            self._settled.set()

    def _refuse(self, event_id: str, why: object) -> None:
        self._refused[event_id] = why

    def _end(self, error: BaseException | None) -> None:
        _settle(self._ended, _reason(error) if error is not None else "the connection was closed")
        if self._connection.is_closed:
            _settle(self._down, None)


class _Connection(AsyncioConnection):
    """The client's connection. It can also be dropped while the broker does not read."""

    def abort(self) -> None:
        if not self.is_closed:
            self._terminate_stream(StreamLostError("dropped"))


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _reason(error: BaseException) -> str:
    """Return the text of the first error in a client's chain of errors.

    This is the broker's own text, if there is any.
    """
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        chained = getattr(error, "exceptions", None) or (getattr(error, "exception", None), *error.args)
        inner = next((each for each in chained if isinstance(each, BaseException)), None)
    quoted = _QUOTED.search(str(error))
    return quoted[1] if quoted else said(error)


def _parameters(endpoint: Endpoint) -> ConnectionParameters:
    """Return the URL as the client's parameters. Without a user, it is the broker's own guest."""
    user = ConnectionParameters.DEFAULT_CREDENTIALS
    if endpoint.user is not None:
        user = PlainCredentials(endpoint.user, endpoint.password or "")
    encrypted = SSLOptions(endpoint.tls(), endpoint.host) if endpoint.scheme == "amqps" else None
    return ConnectionParameters(
        host=endpoint.host,
        port=endpoint.port or PORTS[endpoint.scheme],
        virtual_host=endpoint.path or "/",
        credentials=user,
        heartbeat=HEARTBEAT,
        ssl_options=encrypted,
        socket_timeout=DIALLING,
        stack_timeout=DIALLING,
    )
