"""Differences between the brokers: error texts, repeated events, and login."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import aiormq
import pytest

from tests.support.brokers.cases import BrokerCase, jetstream_case, rabbit_case, sink
from tests.support.brokers.events import an_event
from tests.support.brokers.readers import read_jetstream
from tests.support.brokers.servers import LOCALHOST, free_port, jetstream, rabbit_port, redis_server
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.broker import BrokerSink, read
from tracker.delivery.sinks.urls import check_sink, parse_sinks
from tracker.errors import NotSent, SettingsError
from tracker.model.event import PublishedEvent
from tracker.model.targets import PUBLIC_ONLY

SECRET = "made-up%2Fsecret"
SPOKEN = "made-up/secret"


@pytest.fixture
async def rabbit() -> AsyncIterator[BrokerCase]:
    async with rabbit_case() as case:
        yield case


async def test_jetstream_keeps_a_repeated_event_once() -> None:
    async with jetstream_case() as broker:
        for _ in range(2):
            broker_sink = broker.sink()
            assert await broker_sink.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
            await broker_sink.close()
        kept = await broker.read()
        assert sorted(each.id for each in kept) == [an_event(1).id, an_event(2).id]
        assert {each.twin for each in kept} == {each.id for each in kept}
        assert {each.channel for each in kept} == {"homing.task.submitted"}


async def test_jetstream_reports_missing_stream() -> None:
    with jetstream() as server:
        broker_sink = sink(f"nats://{LOCALHOST}:{server.port}/shop")
        (outcome,) = await broker_sink.send([an_event()])
        assert not outcome.delivered
        assert not outcome.hopeless
        assert "no stream takes shop.homing.task.submitted" in outcome.error
        await broker_sink.close()
        created = sink(f"nats://{LOCALHOST}:{server.port}/shop?create=true&stream=SHOP")
        assert await created.send([an_event()]) == [DELIVERED]
        await created.close()
        assert [kept.channel for kept in await read_jetstream(server.port, stream="SHOP")] == [
            "shop.homing.task.submitted"
        ]


async def test_rabbitmq_reports_missing_queue_if_mandatory(rabbit: BrokerCase) -> None:
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/")
    channel = await connection.channel()
    name = rabbit.options.removeprefix("exchange=")
    await channel.queue_unbind(name, name, "#")
    await channel.queue_bind(name, name, "homing.task.succeeded")
    broker_sink = rabbit.sink()
    outcomes = await broker_sink.send([an_event(1, 1), an_event(2, 3)])
    assert [outcome.delivered for outcome in outcomes] == [False, True]
    assert f"no queue is bound to exchange {name} for homing.task.submitted" in outcomes[0].error
    assert not outcomes[0].hopeless
    await broker_sink.close()
    loose = rabbit.sink("mandatory=false")
    assert await loose.send([an_event(1, 1)]) == [DELIVERED]
    await loose.close()
    assert [kept.id for kept in await rabbit.read()] == [an_event(2, 3).id]
    await connection.close()


async def test_rabbitmq_header_prefix_can_be_amqp_1_0(
    rabbit: BrokerCase,
) -> None:
    broker_sink = rabbit.sink("headers=cloudEvents:")
    assert await broker_sink.send([an_event()]) == [DELIVERED]
    await broker_sink.close()
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/")
    channel = await connection.channel()
    message = await channel.basic_get(rabbit.options.removeprefix("exchange="))
    headers = message.header.properties.headers or {}
    assert headers["cloudEvents:id"] == an_event().id
    assert not [name for name in headers if name.startswith("ce-")]
    await connection.close()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("?exchange=amq.direct", "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct'"),
        ("?exchange=nowhere&declare=false", "NOT_FOUND - no exchange 'nowhere' in vhost '/'"),
        ("nowhere", "NOT_ALLOWED - vhost nowhere not found"),
    ],
)
async def test_rabbitmq_refusal_keeps_its_text(target: str, message: str) -> None:
    broker_sink = sink(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/{target}")
    (outcome,) = await broker_sink.send([an_event()])
    await broker_sink.close()
    assert outcome.error.startswith(message)
    assert not outcome.hopeless


@pytest.mark.parametrize("scheme", ["nats", "redis", "amqp", "kafka"])
async def test_wrong_password_error_hides_it(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        jetstream(settings='authorization { user: "homing", password: "right" }') as nats_server,
        redis_server("--requirepass", "right") as redis_,
    ):
        port = {"nats": nats_server.port, "redis": redis_.port, "kafka": free_port()}.get(scheme) or rabbit_port()
        broker_sink = sink(f"{scheme}://homing:{SECRET}@{LOCALHOST}:{port}/?timeout=1")
        (outcome,) = await broker_sink.send([an_event()])
        await broker_sink.close()
    assert not outcome.delivered
    assert outcome.error
    for text in (outcome.error, caplog.text, repr(broker_sink)):
        assert SECRET not in text
        assert SPOKEN not in text


class Talkative:
    """A broker client whose error contains the password."""

    sound = False

    async def dial(self) -> None:
        raise ConnectionError(f"cannot reach\namqp://homing:{SPOKEN}@broker.example")

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        raise NotImplementedError

    async def hang_up(self) -> None:
        pass


async def test_client_error_hides_password_in_one_line() -> None:
    (spec,) = parse_sinks(f"amqp://homing:{SECRET}@broker.example/")
    broker_sink = BrokerSink(spec, Talkative(), read(spec.target).secrets)
    (outcome,) = await broker_sink.send([an_event()])
    assert outcome.error == "cannot reach amqp://homing:***@broker.example"


async def test_right_password_is_accepted() -> None:
    with (
        jetstream(settings=f'authorization {{ user: "homing", password: "{SPOKEN}" }}') as nats_server,
        jetstream(settings=f'authorization {{ token: "{SPOKEN}" }}') as by_token,
        redis_server("--requirepass", SPOKEN) as redis_,
    ):
        for address in (
            f"nats://homing:{SECRET}@{LOCALHOST}:{nats_server.port}/?create=true",
            f"nats://{SECRET}@{LOCALHOST}:{by_token.port}/?create=true",
            f"redis://:{SECRET}@{LOCALHOST}:{redis_.port}/0",
        ):
            broker_sink = sink(address)
            assert await broker_sink.send([an_event()]) == [DELIVERED]
            await broker_sink.close()


async def test_sink_check_finds_unreachable_broker() -> None:
    with redis_server() as server:
        (spec,) = parse_sinks(f"redis://{LOCALHOST}:{server.port}/0")
        await check_sink(spec, PUBLIC_ONLY)
        server.kill()
        with pytest.raises(NotSent, match="refused"):
            await check_sink(spec, PUBLIC_ONLY)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("nats://broker.example/", "nats"),
        ("kafka://broker.example/homing", "confluent_kafka"),
        ("amqp://broker.example/", "pika"),
        ("redis://broker.example/0", "redis"),
    ],
)
def test_missing_client_names_install_command(address: str, client: str) -> None:
    program = (
        f"import sys; sys.modules[{client!r}] = None\n"
        "from tracker.delivery.sinks.urls import parse_sinks\n"
        "from tracker.delivery.sinks.broker import broker_sink\n"
        f"broker_sink(parse_sinks({address!r})[0], source='urn:homing')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    extra = {"confluent_kafka": "kafka", "pika": "rabbitmq"}.get(client, client)
    assert f"pip install '.[{extra}]'" in done.stderr.splitlines()[-1]
    assert "SettingsError" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nats://host/?stram=X", "an option in its URL is unknown. Choose from create, creds, days"),
        ("nats://host/?create=perhaps", "its create= is not valid. Write true or false"),
        ("redis://host/0?maxlen=-1", "its maxlen= is not valid. Write a whole number above 0"),
        ("redis://host/first", "is not a database number"),
        ("tls://host/?ca=/nowhere.pem", "cannot be used"),
        ("nats://host/?creds=/nowhere.creds", "the file of creds= cannot be read"),
        ("kafka://host/homing?tls=true&ca=/nowhere.pem", "cannot be used"),
    ],
)
def test_invalid_option_is_refused_in_one_line(address: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"sink .*: ") as error:
        sink(address)
    assert said in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize("address", ["nats://", "kafka:///homing", "redis://host:port/0"])
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="sink 1: its URL"):
        parse_sinks(address)


def test_shown_address_hides_the_credential() -> None:
    (spec,) = parse_sinks(f"amqps://homing:{SECRET}@broker.example/shop?exchange=events")
    assert spec.address == "amqps://broker.example/shop"
    assert spec.name == "broker.example-shop"
    assert SECRET not in repr(spec)
