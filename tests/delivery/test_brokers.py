"""What every broker's sink does, shown with the real broker behind a line that can be cut."""

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

# Of a sink that waits one second for confirmations.
AT_MOST = DIALLING + 1 + 2 * HANGING_UP + 5


@pytest.fixture(params=CASES)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[BrokerCase]:
    async with CASES[request.param]() as case:
        yield case


async def test_what_is_told_is_read_back_as_the_cloud_event_that_it_is(broker: BrokerCase) -> None:
    told = an_event(request={"prompt": "ü"})
    sink = broker.sink()
    assert await sink.send([told]) == [DELIVERED]
    await sink.close()
    (kept,) = await broker.read()
    event = kept.event
    assert kept.id == told.id
    assert event.get_source() == SOURCE
    assert event.get_type() == told.type
    assert event.get_subject() == told.subject
    assert event.get_time() == told.at
    assert event.get_datacontenttype() == "application/json"
    assert event.get_dataschema() == "urn:homing:task:2"
    assert event.get_extension("sequence") == "0000000001"
    assert event.get_extension("partitionkey") == told.subject
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["id"] == told.subject
    assert data["status"] == "submitted"
    assert kept.key in {None, told.subject}
    assert kept.twin in {None, told.id}


async def test_waves_are_confirmed_and_kept_in_order_per_task(broker: BrokerCase) -> None:
    sink = broker.sink()
    told = waves(tasks=300)
    for wave in told:
        assert await sink.send(wave) == [DELIVERED] * len(wave)
    await sink.close()
    kept = await broker.read()
    assert sorted(each.id for each in kept) == sorted(each.id for each in chain(*told))
    assert_in_order(kept)


async def test_a_broker_that_is_not_there_fails_each_event_and_is_found_once_it_is(broker: BrokerCase) -> None:
    broker.line.refuse()
    sink = broker.sink("timeout=1")
    await sink.open()
    for outcome in await sink.send([an_event(1), an_event(2)]):
        assert not outcome.delivered
        assert not outcome.hopeless
        assert "refused" in outcome.error
    await broker.line.listen()
    await told_until_delivered(sink, [an_event(1), an_event(2)])
    await sink.close()
    assert {kept.id for kept in await broker.read()} == {an_event(1).id, an_event(2).id}


async def test_stream_deleted_while_running_is_made_again() -> None:
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


async def test_redis_stream_deleted_while_running_goes_on() -> None:
    async with CASES["redis"]() as broker:
        sink = broker.sink()
        assert await sink.send([an_event(1)]) == [DELIVERED]
        assert broker.server is not None
        async with redis.asyncio.Redis(port=broker.server.port) as client:
            await client.delete("homing:events")

        assert await sink.send([an_event(2)]) == [DELIVERED]

        await sink.close()
        assert [kept.id for kept in await broker.read()] == [an_event(2).id]


async def test_exchange_deleted_while_running_is_made_again() -> None:
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


async def test_a_line_that_is_cut_mid_stream_loses_nothing_and_keeps_the_order(broker: BrokerCase) -> None:
    sink = broker.sink("timeout=5")
    failures = 0
    told = waves(tasks=200, versions=6)
    for number, wave in enumerate(told):
        sending = asyncio.create_task(told_until_delivered(sink, wave))
        # At another point of each wave.
        for _ in range(3 * number):
            await asyncio.sleep(0)
        broker.line.cut()
        failures += await sending
    await sink.close()
    kept = await broker.read()
    assert {each.id for each in kept} == {each.id for each in chain(*told)}
    assert_in_order(kept)
    assert broker.line.accepted > 1


async def test_a_broker_that_is_killed_mid_stream_has_all_that_it_confirmed(broker: BrokerCase) -> None:
    if broker.server is None:
        pytest.skip("this one must not be stopped; its connections are cut instead")
    sink = broker.sink("timeout=2")
    told = waves(tasks=200, versions=6)
    for number, wave in enumerate(told):
        sending = asyncio.create_task(told_until_delivered(sink, wave))
        if number % 2:
            await asyncio.sleep(0)
            broker.server.kill()
            await asyncio.to_thread(broker.server.start)
        await sending
    await sink.close()
    kept = await broker.read()
    assert {each.id for each in kept} == {each.id for each in chain(*told)}
    assert_in_order(kept)


async def test_a_broker_that_answers_no_more_costs_a_bounded_time_and_nothing_comes_late(broker: BrokerCase) -> None:
    sink = broker.sink("timeout=1")
    assert await sink.send([an_event(1)]) == [DELIVERED]
    broker.line.flows.clear()
    # More than fits into the buffers of the sockets between.
    wave = [an_event(number, request={"prompt": "x" * 30_000}) for number in range(2, 402)]
    async with asyncio.timeout(AT_MOST):
        for outcome in await sink.send(wave):
            assert not outcome.delivered
            assert not outcome.hopeless
    broker.line.flows.set()
    await told_until_delivered(sink, [an_event(500)])
    await sink.close()
    async with asyncio.timeout(AT_MOST):
        while broker.line.open:  # noqa: ASYNC110 - until all that was on its way has passed
            await asyncio.sleep(0.01)
    kept = {each.id for each in await broker.read()}
    assert an_event(500).id in kept
    # What was given up is not sent behind what was told since.
    assert wave[-1].id not in kept


async def test_an_event_that_is_too_large_is_hopeless_and_its_neighbours_arrive(broker: BrokerCase) -> None:
    sink = broker.sink(broker.limit_options)
    wave = [an_event(1), a_large_event(2, broker.limit + 1), an_event(3)]
    outcomes = await sink.send(wave)
    assert not outcomes[1].delivered
    assert outcomes[1].hopeless
    assert str(len(wave[1].body))[:2] in outcomes[1].error or "large" in outcomes[1].error
    again = [told for told, outcome in zip(wave, outcomes, strict=True) if not (outcome.delivered or outcome.hopeless)]
    if again:
        # RabbitMQ ends the channel over it, once: from then on its limit is known.
        assert broker.name == "rabbitmq"
        assert await sink.send([*again, wave[1]]) == [*[DELIVERED] * len(again), outcomes[1]]
    await sink.close()
    assert {kept.id for kept in await broker.read()} == {wave[0].id, wave[2].id}


async def test_closing_while_it_sends_ends_soon_and_leaves_nothing_running(broker: BrokerCase) -> None:
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
        while ours(asyncio.all_tasks() - running):  # noqa: ASYNC110 - a task that ends tells nobody
            await asyncio.sleep(0.01)


async def test_an_event_that_the_filter_does_not_take_has_no_lane(broker: BrokerCase) -> None:
    sink = broker.sink(behind="&type=succeeded")
    assert sink.endpoint(an_event(1, 1)) is None
    assert sink.endpoint(an_event(1, 3)) == sink.name == "told"


def ours(tasks: set["asyncio.Task[None]"]) -> list[str]:
    """Name the tasks that no part of the test runs."""
    return [str(task.get_coro()) for task in tasks if "Proxy" not in str(task.get_coro())]


async def told_until_delivered(sink: Sink, wave: Sequence[PublishedEvent]) -> int:
    """Send events as the relay does: retry failed ones until they are delivered. Return how often they failed."""
    failures = 0
    async with asyncio.timeout(60):
        while wave:
            outcomes: Sequence[Outcome] = await sink.send(wave)
            assert len(outcomes) == len(wave)
            wave = [told for told, outcome in zip(wave, outcomes, strict=True) if not outcome.delivered]
            if wave:
                failures += 1
                await asyncio.sleep(0.02)
    return failures


def assert_in_order(kept: Sequence[Kept]) -> None:
    """Whoever drops what he has seen reads each task's events in their order."""
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
