"""Read the content of a broker with its own client, and with the CloudEvents SDK if that supports the broker."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aiormq
import msgspec
import nats
import redis.asyncio
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.bindings.http import from_binary_event as from_http
from cloudevents.core.bindings.kafka import KafkaMessage
from cloudevents.core.bindings.kafka import from_binary_event as from_kafka
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage
from cloudevents.core.bindings.rabbitmq import from_binary_event as from_rabbitmq
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from pamqp.commands import Basic

from tests.support.brokers.servers import LOCALHOST

LIMIT: Final = 30


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One stored message: ``key`` orders it, ``twin`` identifies duplicates."""

    event: BaseCloudEvent
    channel: str
    key: str | None = None
    twin: str | None = None

    @property
    def id(self) -> str:
        return str(self.event.get_id())

    @property
    def task(self) -> str:
        return str(self.event.get_subject())

    @property
    def sequence(self) -> str:
        return str(self.event.get_extension("sequence"))


async def read_jetstream(port: int, *, stream: str = "HOMING", **settings: Any) -> Sequence[Kept]:
    """Read all messages of a stream; return an empty list if it does not exist."""
    client = await nats.connect(f"nats://{LOCALHOST}:{port}", allow_reconnect=False, **settings)
    try:
        context = client.jetstream()
        try:
            state = (await context.stream_info(stream)).state
        except NotFoundError:
            return []
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
        reader = await context.pull_subscribe("", stream=stream, config=config)
        found: list[Kept] = []
        while len(found) < state.messages:
            for message in await reader.fetch(500, timeout=LIMIT):
                headers = dict(message.headers or {})
                twin = headers.pop("Nats-Msg-Id", None)
                headers.pop("Nats-Expected-Stream", None)
                event = from_http(HTTPMessage(headers=headers, body=message.data))
                found.append(Kept(event=event, channel=message.subject, twin=twin))
        return found
    finally:
        await client.close()


async def read_redis(port: int, *, stream: str = "homing:events") -> Sequence[Kept]:
    """Read all messages of a stream. CloudEvents does not define Redis: read the fields as HTTP headers."""
    async with redis.asyncio.Redis(port=port) as client:
        found: list[Kept] = []
        entries: Any = await client.xrange(stream)
        for _, fields in entries:
            headers = {f"ce-{name.decode()}": value.decode() for name, value in fields.items() if name != b"data"}
            headers["content-type"] = headers.pop("ce-datacontenttype")
            found.append(Kept(event=from_http(HTTPMessage(headers=headers, body=fields[b"data"])), channel=stream))
        return found


def read_kafka(port: int, *, topic: str = "homing", **settings: Any) -> Sequence[Kept]:
    """Read all messages of a topic, partition by partition, up to a marker message at the end.

    The test broker reports a partition end that is too low if the first batch had more than one message.
    """
    server = {"bootstrap.servers": f"{LOCALHOST}:{port}", "log_level": 0, **settings}
    reader = Consumer({**server, "group.id": "reader", "enable.auto.commit": False})
    try:
        mark, found = uuid.uuid4().bytes, list[Message]()
        numbers = list(reader.list_topics(topic, timeout=LIMIT).topics[topic].partitions)
        writer = Producer(server)
        for number in numbers:
            writer.produce(topic, key=mark, partition=number)
        assert not writer.flush(LIMIT)
        for number in numbers:
            reader.assign([TopicPartition(topic, number, 0)])
            found += _until(reader, mark)
        return [_kept(message) for message in found]
    finally:
        reader.close()


def _until(reader: Consumer, mark: bytes) -> Iterator[Message]:
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        message = reader.poll(0.1)
        if message is None or message.error():
            continue
        if message.key() == mark:
            return
        # The marks of earlier readings have no value.
        if message.value():
            yield message
    raise TimeoutError("the topic does not end")


def _kept(message: Message) -> Kept:
    headers = {name: bytes(value or b"") for name, value in _pairs(message.headers())}
    event = from_kafka(KafkaMessage(headers=headers, key=message.key(), value=_bytes(message.value())))
    return Kept(event=event, channel=message.topic() or "", key=_bytes(message.key()).decode())


async def read_rabbit(port: int, queue: str) -> Sequence[Kept]:
    """Read all messages of a queue without removing them."""
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{port}/")
    try:
        channel = await connection.channel()
        found: list[Kept] = []
        while True:
            message = await channel.basic_get(queue, no_ack=False, timeout=LIMIT)
            if isinstance(message.delivery, Basic.GetEmpty):
                return found
            properties = message.header.properties
            headers = {name: str(value) for name, value in (properties.headers or {}).items()}
            event = from_rabbitmq(
                RabbitMQMessage(headers=headers, content_type=properties.content_type, body=message.body)
            )
            found.append(Kept(event=event, channel=message.routing_key or "", twin=properties.message_id))
    finally:
        await connection.close()


def _pairs(headers: Any) -> Sequence[tuple[str, bytes]]:
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
