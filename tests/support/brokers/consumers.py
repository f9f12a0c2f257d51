"""Consumers that read events continuously and record them; they reconnect if the broker is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiormq
import nats
import nats.errors
import redis.asyncio
from confluent_kafka import Consumer, KafkaException, TopicPartition
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from redis.exceptions import RedisError

from tests.support.brokers.cases import BrokerCase
from tests.support.brokers.servers import LOCALHOST

MOST: Final = 500
# How long one look waits for more, and how long until a broker that is away is looked for again, in seconds.
LOOK: Final = 0.2
LIMIT: Final = 5
# The task and its version.
Place = tuple[str, int]


@dataclass(slots=True, kw_only=True)
class Seen:
    """The events that one consumer received: each once, at its first arrival, by ID."""

    order: list[Place] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    repeats: int = 0
    # The error that stopped the consumer.
    ended: str = ""

    def note(self, key: str, task: str, sequence: str) -> None:
        if key in self.places:
            self.repeats += 1
            return
        self.places[key] = (task, int(sequence))
        self.order.append(self.places[key])

    def end(self, running: "asyncio.Task[None]") -> None:
        self.ended = "cancelled" if running.cancelled() else repr(running.exception())

    def out_of_order(self) -> Sequence[Place]:
        """Return the events that arrived after a newer event of the same task, or as a duplicate with another ID."""
        newest: dict[str, int] = {}
        late: list[Place] = []
        for task, sequence in self.order:
            if sequence <= newest.get(task, 0):
                late.append((task, sequence))
            newest[task] = max(sequence, newest.get(task, 0))
        return late


@asynccontextmanager
async def consuming(case: BrokerCase) -> AsyncIterator[Seen]:
    """Consume all present and future events of a broker, from the beginning."""
    seen = Seen()
    running = asyncio.create_task(_READS[case.name](case, seen))
    running.add_done_callback(seen.end)
    try:
        yield seen
    finally:
        # Again where a client swallows it while it waits.
        while not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=LOOK)


async def _jetstream(case: BrokerCase, seen: Seen) -> None:
    next_one = 1
    while True:
        with suppress(OSError, nats.errors.Error):
            assert case.server is not None
            client = await nats.connect(
                f"nats://{LOCALHOST}:{case.server.port}", allow_reconnect=False, error_cb=_nobody_hears
            )
            try:
                config = ConsumerConfig(
                    ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=next_one
                )
                reader = await client.jetstream().pull_subscribe("", stream="HOMING", config=config)
                while client.is_connected:
                    with suppress(TimeoutError):
                        for message in await reader.fetch(MOST, timeout=LOOK):
                            headers = message.headers or {}
                            seen.note(headers["ce-id"], headers["ce-subject"], headers["ce-sequence"])
                            next_one = message.metadata.sequence.stream + 1
            finally:
                await client.close()
        await asyncio.sleep(LOOK)


async def _redis(case: BrokerCase, seen: Seen) -> None:
    assert case.server is not None
    last = "0"
    async with redis.asyncio.Redis(port=case.server.port, decode_responses=True) as client:
        while True:
            try:
                found: Any = await client.xread({"homing:events": last}, count=MOST, block=int(LOOK * 1000))
            except (OSError, RedisError):
                await asyncio.sleep(LOOK)
                continue
            for _, entries in found:
                for number, fields in entries:
                    seen.note(fields["id"], fields["subject"], fields["sequence"])
                    last = number


async def _rabbitmq(case: BrokerCase, seen: Seen) -> None:
    """Read without the proxy. Tests cut the proxy and never stop the server."""
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{case.line.to}/")

    async def take(message: Any) -> None:
        headers = message.header.properties.headers
        seen.note(headers["ce-id"], headers["ce-subject"], headers["ce-sequence"])

    try:
        channel = await connection.channel()
        await channel.basic_consume(case.options.removeprefix("exchange="), take, no_ack=True)
        await asyncio.Event().wait()
    finally:
        await connection.close()


async def _kafka(case: BrokerCase, seen: Seen) -> None:
    """Read through the proxy, because the broker announces that address.

    Each read uses a new client: after the end of a partition, the test broker sometimes sends nothing more to the same
    client.
    """
    offsets: dict[int, int] = {}
    while True:
        with suppress(KafkaException):
            await asyncio.to_thread(_look, case.line.port, offsets, seen)
        await asyncio.sleep(LOOK)


def _look(port: int, offsets: dict[int, int], seen: Seen) -> None:
    settings = {"bootstrap.servers": f"{LOCALHOST}:{port}", "group.id": "seen", "enable.auto.commit": False}
    reader = Consumer({**settings, "log_level": 0})
    try:
        numbers = reader.list_topics("homing", timeout=LIMIT).topics["homing"].partitions
        reader.assign([TopicPartition("homing", number, offsets.get(number, 0)) for number in numbers])
        until = time.monotonic() + 2 * LOOK
        while time.monotonic() < until:
            message = reader.poll(LOOK)
            if message is None or message.error():
                continue
            offsets[message.partition() or 0] = (message.offset() or 0) + 1
            # A message that marks the end of an earlier read has no value.
            if message.value():
                headers = {name: _text(value) for name, value in dict(message.headers() or []).items()}
                seen.note(headers["ce_id"], headers["ce_subject"], headers["ce_sequence"])
    finally:
        reader.close()


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


async def _nobody_hears(_: Exception) -> None:
    """The broker is meant to go away."""


_READS: dict[str, Callable[[BrokerCase, Seen], Coroutine[Any, Any, None]]] = {
    "jetstream": _jetstream,
    "kafka": _kafka,
    "rabbitmq": _rabbitmq,
    "redis": _redis,
}
