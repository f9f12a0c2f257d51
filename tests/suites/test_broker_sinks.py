"""The sinks of the brokers pass the shared suite, each over its real broker.

A kill stops the server if the test owns it and it keeps confirmed events. The Kafka broker keeps its log in memory and
RabbitMQ belongs to the machine, so for them a kill cuts every connection and refuses new ones.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.suites.sink_case import Got, SinkCase
from tests.suites.sink_suite import SinkSuite
from tests.support.brokers.cases import BrokerCase, jetstream_case, kafka_case, rabbit_case, redis_case
from tracker.delivery.sinks.base import Sink


class Behind(SinkCase):
    """A broker and its content; a slow broker is a proxy that forwards nothing."""

    def __init__(self, broker: BrokerCase) -> None:
        self.broker = broker
        self.up = True
        self.known: list[Got] = []

    def sink(self) -> Sink:
        sink = self.broker.sink("timeout=3")
        sink.name = "under test"
        return sink

    async def start(self) -> None:
        if self.up:
            return
        if self.broker.server is None:
            await self.broker.line.listen()
        else:
            await asyncio.to_thread(self.broker.server.start)
        self.up = True

    async def kill(self) -> None:
        if self.broker.server is None:
            self.broker.line.refuse()
        else:
            self.broker.server.kill()
        self.up = False

    async def got(self) -> list[Got]:
        if self.up:
            kept = await self.broker.read()
            self.known = [Got(id=each.id, subject=each.task, sequence=int(each.sequence)) for each in kept]
        return self.known

    def refuse(self, refuses: Callable[[Got], bool]) -> None:
        del refuses
        pytest.skip("a broker takes every event that is not too large")

    def hold(self) -> None:
        self.broker.line.flows.clear()

    def let_go(self) -> None:
        self.broker.line.flows.set()

    def is_holding(self) -> bool:
        return self.broker.line.holding > 0


class TestJetStream(SinkSuite):
    @pytest.fixture
    async def case(self) -> AsyncIterator[SinkCase]:
        async with jetstream_case() as broker:
            yield Behind(broker)


class TestKafka(SinkSuite):
    @pytest.fixture
    async def case(self) -> AsyncIterator[SinkCase]:
        async with kafka_case() as broker:
            yield Behind(broker)


class TestRabbitMq(SinkSuite):
    @pytest.fixture
    async def case(self) -> AsyncIterator[SinkCase]:
        async with rabbit_case() as broker:
            yield Behind(broker)


class TestRedis(SinkSuite):
    @pytest.fixture
    async def case(self) -> AsyncIterator[SinkCase]:
        async with redis_case() as broker:
            yield Behind(broker)
