"""The consumer programs of the guides, run unchanged: they handle each event once and skip older events."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.brokers.cases import CASES, BrokerCase
from tests.support.brokers.events import an_event
from tests.support.brokers.servers import LOCALHOST
from tests.support.published_events import an_alarm
from tracker.delivery.sinks.base import DELIVERED
from tracker.model.event import PublishedEvent

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
PAGE_OF = {"jetstream": "nats", "kafka": "kafka", "rabbitmq": "rabbitmq", "redis": "redis"}
LIMIT = 60
# Kafka needs several seconds to assign partitions to a consumer.
GUIDES = [pytest.param(name, marks=[pytest.mark.nightly] if name == "kafka" else []) for name in CASES]


@pytest.mark.parametrize("name", GUIDES)
async def test_guide_consumer_handles_events_once_in_order(name: str, tmp_path: Path) -> None:
    async with CASES[name]() as broker:
        sink = broker.sink()
        first, second, third, last = (an_event(1, version) for version in (1, 2, 3, 4))
        other, end = an_event(2, 1), an_event(2, 2)
        # Repeat events and send older ones, as after a crash and a replay.
        alarm = an_alarm()
        for wave in ([first, other, alarm], [first, other], [second], [third], [second], [first], [last, end]):
            assert await sink.send(wave) == [DELIVERED] * len(wave)
        await sink.close()
        script = tmp_path / "consumer.py"
        script.write_text(code(PAGE_OF[name]))
        lines: list[str] = []
        async with running(script, environment(broker)) as consumer, asyncio.timeout(LIMIT):
            # The consumer reads the partitions in any order.
            while not {line_of(last), line_of(end)} <= {*lines}:
                lines.append((await consumer.readline()).decode())
                assert lines[-1], "the consumer ended"
        assert [line for line in lines if alarm.type in line] == [f"{alarm.type} {alarm.data['detail']}\n"]
        assert [line for line in lines if first.subject in line] == [*map(line_of, (first, second, third, last))]
        assert [line for line in lines if other.subject in line] == [*map(line_of, (other, end))]


def test_redis_client_timeout_exceeds_server_block() -> None:
    """Redis answers an empty read when the block ends. A client with a shorter timeout fails on a quiet stream."""
    page = code("redis")
    (patience,), (block,) = [map(int, re.findall(rf"\b{name}=(\d+)", page)) for name in ("socket_timeout", "block")]

    assert patience > block / 1000


@pytest.mark.nightly
async def test_redis_consumer_survives_a_quiet_stream(tmp_path: Path) -> None:
    async with CASES["redis"]() as broker:
        script = tmp_path / "consumer.py"
        script.write_text(code("redis"))
        sink, event = broker.sink(), an_event(1, 1)
        async with running(script, environment(broker)) as consumer, asyncio.timeout(LIMIT):
            # Wait longer than the default timeout of the client, which is 5 s.
            await asyncio.sleep(12)
            assert await sink.send([event]) == [DELIVERED]
            assert (await consumer.readline()).decode() == line_of(event)
        await sink.close()


def code(page: str) -> str:
    """Return the only program of a guide."""
    _, program = (PAGES / f"consume-{page}.md").read_text().split("```python\n")
    return program.partition("```")[0]


def environment(broker: BrokerCase) -> Mapping[str, str]:
    port = broker.line.port
    exchange = broker.options.removeprefix("exchange=")
    return {
        "NATS_URL": f"nats://{LOCALHOST}:{port}",
        "KAFKA_SERVER": f"{LOCALHOST}:{port}",
        "AMQP_URL": f"amqp://guest:guest@{LOCALHOST}:{port}/",
        "EXCHANGE": exchange,
        "QUEUE": exchange,
        "REDIS_URL": f"redis://{LOCALHOST}:{port}/0",
    }


def line_of(event: PublishedEvent) -> str:
    return f"{event.type} {event.subject} {event.sequence}\n"


@asynccontextmanager
async def running(script: Path, more: Mapping[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), env={**os.environ, **more}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()
