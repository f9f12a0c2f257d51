"""One broker for tests: its address, its content, and a proxy that can cut the connections.

With a certificate the connection is encrypted: by NATS itself, and by the proxy for the other brokers.
The Redis of the wheel is built without TLS, the Kafka broker takes no key for its certificate, and
the tests cannot configure the machine's RabbitMQ.
"""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiormq

from tests.support.brokers.certificates import Certificate
from tests.support.brokers.events import SOURCE
from tests.support.brokers.proxy import Proxy, proxy
from tests.support.brokers.readers import Kept, read_jetstream, read_kafka, read_rabbit, read_redis
from tests.support.brokers.servers import LOCALHOST, Server, jetstream, kafka, rabbit_port, redis_server
from tracker.delivery.sinks.broker import BrokerSink, broker_sink
from tracker.delivery.sinks.urls import parse_sinks


@dataclass(kw_only=True)
class BrokerCase:
    """A running broker behind a proxy. ``address`` leads through it; ``limit`` is the maximum message size in bytes.

    ``server`` is None if tests must not stop it.
    """

    name: str
    address: str
    line: Proxy
    read: Callable[[], Awaitable[Sequence[Kept]]]
    options: str = ""
    limit: int
    limit_options: str = ""
    server: Server | None = None

    def sink(self, *options: str, behind: str = "") -> BrokerSink:
        """Make a sink to it as the settings would."""
        query = "&".join(option for option in (self.options, *options) if option)
        return sink(f"{self.address}?{query}#name=events{behind}")


def sink(address: str) -> BrokerSink:
    """Make the sink of an address as the settings would."""
    (spec,) = parse_sinks(address)
    return broker_sink(spec, source=SOURCE)


def shown(certificate: Certificate | None) -> ssl.SSLContext | None:
    return None if certificate is None else certificate.shown()


@asynccontextmanager
async def jetstream_case(certificate: Certificate | None = None, *, settings: str = "") -> AsyncIterator[BrokerCase]:
    tls = f'tls {{ cert_file: "{certificate.file}", key_file: "{certificate.key}" }}\n' if certificate else ""
    trusted = certificate.trusted_by_clients() if certificate else None
    with jetstream(settings=f"max_payload: 64KB\n{tls}{settings}") as server:
        async with proxy(server.port) as line:
            yield BrokerCase(
                name="jetstream",
                address=f"{'tls' if certificate else 'nats'}://{LOCALHOST}:{line.port}/",
                options="create=true",
                line=line,
                read=lambda: read_jetstream(server.port, tls=trusted),
                limit=64 * 1024,
                server=server,
            )


@asynccontextmanager
async def redis_case(certificate: Certificate | None = None) -> AsyncIterator[BrokerCase]:
    with redis_server("--proto-max-bulk-len", "1mb") as server:
        async with proxy(server.port, shown(certificate)) as line:
            yield BrokerCase(
                name="redis",
                address=f"{'rediss' if certificate else 'redis'}://{LOCALHOST}:{line.port}/0",
                line=line,
                read=lambda: read_redis(server.port),
                limit=1024 * 1024,
                server=server,
            )


@asynccontextmanager
async def kafka_case(certificate: Certificate | None = None) -> AsyncIterator[BrokerCase]:
    believing: dict[str, Any] = {}
    if certificate:
        believing = {"security.protocol": "SSL", "enable.ssl.certificate.verification": False}
    async with proxy(0, shown(certificate)) as line:
        with kafka(advertised=line.port) as server:
            line.to = server.port
            # The broker creates a topic on request. Two concurrent requests may create two.
            await asyncio.to_thread(read_kafka, line.port, **believing)
            yield BrokerCase(
                name="kafka",
                address=f"kafka://{LOCALHOST}:{line.port}/homing",
                options="tls=true" if certificate else "",
                line=line,
                read=lambda: asyncio.to_thread(read_kafka, line.port, **believing),
                limit=64 * 1024,
                limit_options="max_bytes=65536",
            )


@asynccontextmanager
async def rabbit_case(certificate: Certificate | None = None) -> AsyncIterator[BrokerCase]:
    """Use an exchange of its own with one queue that takes everything."""
    port, name = rabbit_port(), f"homing-test-{uuid.uuid4().hex}"
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{port}/")
    channel = await connection.channel()
    await channel.exchange_declare(name, exchange_type="topic", durable=True)
    await channel.queue_declare(name, durable=True)
    await channel.queue_bind(name, name, "#")
    try:
        async with proxy(port, shown(certificate)) as line:
            yield BrokerCase(
                name="rabbitmq",
                address=f"{'amqps' if certificate else 'amqp'}://guest:guest@{LOCALHOST}:{line.port}/",
                options=f"exchange={name}",
                line=line,
                read=lambda: read_rabbit(port, name),
                limit=128 * 1024 * 1024,
            )
    finally:
        await channel.queue_delete(name)
        await channel.exchange_delete(name)
        await connection.close()


CASES: dict[str, Callable[..., AbstractAsyncContextManager[BrokerCase]]] = {
    "jetstream": jetstream_case,
    "kafka": kafka_case,
    "rabbitmq": rabbit_case,
    "redis": redis_case,
}
