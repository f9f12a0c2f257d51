"""Each broker sink against a real broker, behind a proxy that can cut the connection."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import chain

import aiormq
import nats
import pytest
import redis.asyncio

from tests.support.brokers.cases import CASES, BrokerCase
from tests.support.brokers.events import SOURCE, a_large_event, an_event, waves
from tests.support.brokers.readers import Kept
from tests.support.brokers.servers import rabbit_port
from tracker.delivery.sinks.base import DELIVERED, Outcome, Sink
from tracker.delivery.sinks.broker import DIALLING, HANGING_UP
from tracker.model.event import PublishedEvent

# The limit for a sink that waits one second for confirmations.
AT_MOST = DIALLING + 1 + 2 * HANGING_UP + 5


@pytest.fixture(params=CASES)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[BrokerCase]:
    async with CASES[request.param]() as case:
        yield case


async def test_broker_event_is_read_as_cloud_event(broker: BrokerCase) -> None:
    event = an_event(request={"prompt": "ü"})
    sink = broker.sink()
    assert await sink.send([event]) == [DELIVERED]
    await sink.close()
    (kept,) = await broker.read()
    received = kept.event
    assert kept.id == event.id
    assert received.get_source() == SOURCE
    assert received.get_type() == event.type
    assert received.get_subject() == event.subject
    assert received.get_time() == event.at
    assert received.get_datacontenttype() == "application/json"
    assert received.get_dataschema() == "urn:homing:task:2"
    assert received.get_extension("sequence") == "0000000001"
    assert received.get_extension("partitionkey") == event.subject
    data = received.get_data()
    assert isinstance(data, dict)
    assert data["id"] == event.subject
    assert data["status"] == "submitted"
    assert kept.key in {None, event.subject}
    assert kept.twin in {None, event.id}


async def test_broker_batches_keep_order_per_task(broker: BrokerCase) -> None:
    sink = broker.sink()
    batches = waves(tasks=300)
    for wave in batches:
        assert await sink.send(wave) == [DELIVERED] * len(wave)
    await sink.close()
    kept = await broker.read()
    assert sorted(each.id for each in kept) == sorted(each.id for each in chain(*batches))
    assert_in_order(kept)


async def test_broker_down_fails_events_until_it_is_up(broker: BrokerCase) -> None:
    broker.line.refuse()
    sink = broker.sink("timeout=1")
    await sink.open()
    for outcome in await sink.send([an_event(1), an_event(2)]):
        assert not outcome.delivered
        assert not outcome.hopeless
        assert "refused" in outcome.error
    await broker.line.listen()
    await send_until_delivered(sink, [an_event(1), an_event(2)])
    await sink.close()
    assert {kept.id for kept in await broker.read()} == {an_event(1).id, an_event(2).id}


async def test_jetstream_deleted_stream_is_made_again() -> None:
    async with CASES["jetstream"]() as broker:
        sink = broker.sink()
        assert await sink.send([an_event(1)]) == [DELIVERED]
        assert broker.server is not None
        client = await nats.connect(f"nats://127.0.0.1:{broker.server.port}")
        await client.jetstream().delete_stream("HOMING")
        await client.close()

        assert await sink.send([an_event(1, version=2), an_event(2)]) == [DELIVERED, DELIVERED]

        await sink.close()
        assert {kept.id for kept in await broker.read()} == {an_event(1, version=2).id, an_event(2).id}


async def test_redis_deleted_stream_is_made_again() -> None:
    async with CASES["redis"]() as broker:
        sink = broker.sink()
        assert await sink.send([an_event(1)]) == [DELIVERED]
        assert broker.server is not None
        async with redis.asyncio.Redis(port=broker.server.port) as client:
            await client.delete("homing:events")

        assert await sink.send([an_event(2)]) == [DELIVERED]

        await sink.close()
        assert [kept.id for kept in await broker.read()] == [an_event(2).id]


async def test_rabbitmq_deleted_exchange_is_made_again() -> None:
    async with CASES["rabbitmq"]() as broker:
        sink = broker.sink()
        assert await sink.send([an_event(1)]) == [DELIVERED]
        name = broker.options.partition("=")[2]
        connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{rabbit_port()}/")
        channel = await connection.channel()
        await channel.exchange_delete(name)

        (gone,) = await sink.send([an_event(2)])
        (unbound,) = await sink.send([an_event(2)])
        await channel.queue_bind(name, name, "#")
        (bound,) = await sink.send([an_event(2)])

        await connection.close()
        await sink.close()
        assert f"no exchange '{name}'" in gone.error
        assert unbound.error == f"no queue is bound to exchange {name} for {an_event(2).type}"
        assert bound == DELIVERED


async def test_broker_connection_cut_keeps_all_in_order(broker: BrokerCase) -> None:
    sink = broker.sink("timeout=5")
    failures = 0
    batches = waves(tasks=200, versions=6)
    for number, wave in enumerate(batches):
        sending = asyncio.create_task(send_until_delivered(sink, wave))
        # Cut each batch at a different point.
        for _ in range(3 * number):
            await asyncio.sleep(0)
        broker.line.cut()
        failures += await sending
    await sink.close()
    kept = await broker.read()
    assert {each.id for each in kept} == {each.id for each in chain(*batches)}
    assert_in_order(kept)
    assert broker.line.accepted > 1


async def test_broker_killed_keeps_confirmed_events(broker: BrokerCase) -> None:
    if broker.server is None:
        pytest.skip("this one must not be stopped; its connections are cut instead")
    sink = broker.sink("timeout=2")
    batches = waves(tasks=200, versions=6)
    for number, wave in enumerate(batches):
        sending = asyncio.create_task(send_until_delivered(sink, wave))
        if number % 2:
            await asyncio.sleep(0)
            broker.server.kill()
            await asyncio.to_thread(broker.server.start)
        await sending
    await sink.close()
    kept = await broker.read()
    assert {each.id for each in kept} == {each.id for each in chain(*batches)}
    assert_in_order(kept)


async def test_silent_broker_fails_in_time_without_late_sends(broker: BrokerCase) -> None:
    sink = broker.sink("timeout=1")
    assert await sink.send([an_event(1)]) == [DELIVERED]
    broker.line.flows.clear()
    # The batch is larger than the socket buffers.
    wave = [an_event(number, request={"prompt": "x" * 30_000}) for number in range(2, 402)]
    async with asyncio.timeout(AT_MOST):
        for outcome in await sink.send(wave):
            assert not outcome.delivered
            assert not outcome.hopeless
    broker.line.flows.set()
    await send_until_delivered(sink, [an_event(500)])
    await sink.close()
    async with asyncio.timeout(AT_MOST):
        while broker.line.open:  # noqa: ASYNC110 - wait for the data in flight
            await asyncio.sleep(0.01)
    kept = {each.id for each in await broker.read()}
    assert an_event(500).id in kept
    # An event that failed is not sent after a later event.
    assert wave[-1].id not in kept


async def test_broker_oversized_event_is_hopeless_alone(broker: BrokerCase) -> None:
    sink = broker.sink(broker.limit_options)
    wave = [an_event(1), a_large_event(2, broker.limit + 1), an_event(3)]
    outcomes = await sink.send(wave)
    assert not outcomes[1].delivered
    assert outcomes[1].hopeless
    assert str(len(wave[1].body))[:2] in outcomes[1].error or "large" in outcomes[1].error
    again = [
        event for event, outcome in zip(wave, outcomes, strict=True) if not (outcome.delivered or outcome.hopeless)
    ]
    if again:
        # RabbitMQ closes the channel at the first oversized event. After that, the sink knows the limit.
        assert broker.name == "rabbitmq"
        assert await sink.send([*again, wave[1]]) == [*[DELIVERED] * len(again), outcomes[1]]
    await sink.close()
    assert {kept.id for kept in await broker.read()} == {wave[0].id, wave[2].id}


async def test_broker_close_while_sending_ends_soon(broker: BrokerCase) -> None:
    sink = broker.sink("timeout=30")
    assert await sink.send([an_event(1)]) == [DELIVERED]
    running = asyncio.all_tasks()
    broker.line.flows.clear()
    wave = [an_event(number) for number in range(2, 302)]
    sending = asyncio.create_task(sink.send(wave))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(AT_MOST):
        await sink.close()
        outcomes = await sending
    assert len(outcomes) == len(wave)
    assert not any(outcome.delivered or outcome.hopeless for outcome in outcomes)
    broker.line.flows.set()
    broker.line.cut()
    async with asyncio.timeout(AT_MOST):
        while ours(asyncio.all_tasks() - running):  # noqa: ASYNC110 - the end of a task has no signal
            await asyncio.sleep(0.01)


async def test_broker_filtered_event_has_no_endpoint(broker: BrokerCase) -> None:
    sink = broker.sink(behind="&type=succeeded")
    assert sink.endpoint(an_event(1, 1)) is None
    assert sink.endpoint(an_event(1, 3)) == sink.name == "events"


def ours(tasks: set["asyncio.Task[None]"]) -> list[str]:
    """Return the tasks that do not belong to the test's proxy."""
    return [str(task.get_coro()) for task in tasks if "Proxy" not in str(task.get_coro())]


async def send_until_delivered(sink: Sink, wave: Sequence[PublishedEvent]) -> int:
    """Send events as the relay does: retry failed ones until they are delivered. Return how often they failed."""
    failures = 0
    async with asyncio.timeout(60):
        while wave:
            outcomes: Sequence[Outcome] = await sink.send(wave)
            assert len(outcomes) == len(wave)
            wave = [event for event, outcome in zip(wave, outcomes, strict=True) if not outcome.delivered]
            if wave:
                failures += 1
                await asyncio.sleep(0.02)
    return failures


def assert_in_order(kept: Sequence[Kept]) -> None:
    """Assert that a consumer that drops repeated events reads the events of each task in order."""
    newest: dict[str, str] = {}
    for each in kept:
        if each.sequence > newest.get(each.task, ""):
            newest[each.task] = each.sequence
    seen: set[str] = set()
    last: dict[str, str] = {}
    for each in kept:
        if each.id not in seen:
            assert each.sequence > last.get(each.task, "")
            last[each.task] = each.sequence
        seen.add(each.id)
    assert last == newest
