"""One message as a broker's own client gives it, before anybody reads a CloudEvent in it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiormq
import msgspec
import nats
import redis.asyncio
from confluent_kafka import Consumer, TopicPartition
from nats.js.api import AckPolicy, ConsumerConfig
from pamqp.commands import Basic

from tests.support.brokers.cases import BrokerCase

LIMIT: Final = 30
LOCALHOST: Final = "127.0.0.1"
# Name the stream that must accept a message.
OF_STREAM: Final = "Nats-Expected-Stream"


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """``known`` are the properties that a broker has besides the headers."""

    address: str
    headers: dict[str, str]
    payload: Any
    key: str | None = None
    known: dict[str, Any] = {}


async def read(case: BrokerCase, count: int) -> list[Raw]:
    """Read the first messages of a broker."""
    async with asyncio.timeout(LIMIT):
        match case.name:
            case "jetstream":
                return await _jetstream(case.line.port, count)
            case "redis":
                return await _redis(case.line.port)
            case "rabbitmq":
                return await _rabbitmq(case.line.port, case.options.removeprefix("exchange="), count)
    return await asyncio.to_thread(_kafka, case.line.port, count)


async def _jetstream(port: int, count: int) -> list[Raw]:
    client = await nats.connect(f"nats://{LOCALHOST}:{port}")
    try:
        reader = await client.jetstream().pull_subscribe(
            "", stream="HOMING", config=ConsumerConfig(ack_policy=AckPolicy.NONE)
        )
        found: list[Raw] = []
        while len(found) < count:
            for message in await reader.fetch(count):
                headers = {name: value for name, value in (message.headers or {}).items() if name != OF_STREAM}
                found.append(Raw(address=message.subject, headers=headers, payload=json.loads(message.data)))
        return found
    finally:
        await client.close()


async def _redis(port: int) -> list[Raw]:
    async with redis.asyncio.Redis(port=port, decode_responses=True) as client:
        (stream,) = await client.keys("*")
        entries: Any = await client.xrange(stream)
        return [
            Raw(address=_text(stream), payload=json.loads(fields.pop("data")), headers=fields) for _, fields in entries
        ]


async def _rabbitmq(port: int, queue: str, count: int) -> list[Raw]:
    async with _channel(port) as channel:
        found: list[Raw] = []
        while len(found) < count:
            message = await channel.basic_get(queue, no_ack=True)
            assert isinstance(message.delivery, Basic.GetOk)
            properties = message.header.properties
            known = {"type": properties.message_type, "mode": properties.delivery_mode, "id": properties.message_id}
            found.append(
                Raw(
                    address=message.delivery.routing_key or "",
                    headers={name: str(value) for name, value in (properties.headers or {}).items()},
                    payload=json.loads(message.body),
                    known={
                        **known,
                        "content_type": properties.content_type,
                        "timestamp": properties.timestamp is not None,
                    },
                )
            )
        return found


@asynccontextmanager
async def _channel(port: int) -> AsyncIterator[Any]:
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{port}/")
    try:
        yield await connection.channel()
    finally:
        await connection.close()


def _kafka(port: int, count: int) -> list[Raw]:
    reader = Consumer({"bootstrap.servers": f"{LOCALHOST}:{port}", "group.id": "raw", "log_level": 0})
    try:
        numbers = list(reader.list_topics("homing", timeout=LIMIT).topics["homing"].partitions)
        reader.assign([TopicPartition("homing", number, 0) for number in numbers])
        found: list[Raw] = []
        while len(found) < count:
            message = reader.poll(0.1)
            # A message that marks the end of an earlier read has no value.
            if message is None or message.error() or not (value := message.value()):
                continue
            headers = {name: _text(header) for name, header in dict(message.headers() or []).items()}
            key = message.key()
            found.append(
                Raw(
                    address=message.topic() or "",
                    headers=headers,
                    payload=json.loads(value),
                    key=None if key is None else _text(key),
                )
            )
        return found
    finally:
        reader.close()


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
