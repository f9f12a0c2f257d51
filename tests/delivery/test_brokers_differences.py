"""What each broker has of its own: its word for what is wrong, what it knows of repeats, and how it is signed in to."""

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
from tracker.model.targets import NOWHERE

SECRET = "made-up%2Fsecret"
SPOKEN = "made-up/secret"


@pytest.fixture
async def rabbit() -> AsyncIterator[BrokerCase]:
    async with rabbit_case() as case:
        yield case


async def test_jetstream_keeps_an_event_once_that_comes_twice() -> None:
    async with jetstream_case() as broker:
        for _ in range(2):
            told = broker.sink()
            assert await told.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
            await told.close()
        kept = await broker.read()
        assert sorted(each.id for each in kept) == [an_event(1).id, an_event(2).id]
        assert {each.twin for each in kept} == {each.id for each in kept}
        assert {each.channel for each in kept} == {"homing.task.submitted"}


async def test_jetstream_says_that_no_stream_takes_the_subject() -> None:
    with jetstream() as server:
        told = sink(f"nats://{LOCALHOST}:{server.port}/shop")
        (outcome,) = await told.send([an_event()])
        assert not outcome.delivered
        assert not outcome.hopeless
        assert "no stream takes shop.homing.task.submitted" in outcome.error
        await told.close()
        created = sink(f"nats://{LOCALHOST}:{server.port}/shop?create=true&stream=SHOP")
        assert await created.send([an_event()]) == [DELIVERED]
        await created.close()
        assert [kept.channel for kept in await read_jetstream(server.port, stream="SHOP")] == [
            "shop.homing.task.submitted"
        ]


async def test_rabbitmq_says_that_no_queue_is_bound_unless_that_is_meant(rabbit: BrokerCase) -> None:
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/")
    channel = await connection.channel()
    name = rabbit.options.removeprefix("exchange=")
    await channel.queue_unbind(name, name, "#")
    await channel.queue_bind(name, name, "homing.task.succeeded")
    told = rabbit.sink()
    outcomes = await told.send([an_event(1, 1), an_event(2, 3)])
    assert [outcome.delivered for outcome in outcomes] == [False, True]
    assert f"no queue is bound to exchange {name} for homing.task.submitted" in outcomes[0].error
    assert not outcomes[0].hopeless
    await told.close()
    loose = rabbit.sink("mandatory=false")
    assert await loose.send([an_event(1, 1)]) == [DELIVERED]
    await loose.close()
    assert [kept.id for kept in await rabbit.read()] == [an_event(2, 3).id]
    await connection.close()


async def test_rabbitmq_names_the_attributes_as_readers_of_amqp_1_0_expect_where_it_is_told_to(
    rabbit: BrokerCase,
) -> None:
    told = rabbit.sink("headers=cloudEvents:")
    assert await told.send([an_event()]) == [DELIVERED]
    await told.close()
    connection = await aiormq.connect(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/")
    channel = await connection.channel()
    message = await channel.basic_get(rabbit.options.removeprefix("exchange="))
    headers = message.header.properties.headers or {}
    assert headers["cloudEvents:id"] == an_event().id
    assert not [name for name in headers if name.startswith("ce-")]
    await connection.close()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("?exchange=amq.direct", "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct'"),
        ("?exchange=nowhere&declare=false", "NOT_FOUND - no exchange 'nowhere' in vhost '/'"),
        ("nowhere", "NOT_ALLOWED - vhost nowhere not found"),
    ],
)
async def test_what_rabbitmq_refuses_is_told_in_its_own_words(target: str, words: str) -> None:
    told = sink(f"amqp://guest:guest@{LOCALHOST}:{rabbit_port()}/{target}")
    (outcome,) = await told.send([an_event()])
    await told.close()
    assert outcome.error.startswith(words)
    assert not outcome.hopeless


@pytest.mark.parametrize("scheme", ["nats", "redis", "amqp", "kafka"])
async def test_a_wrong_password_is_told_without_showing_it(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        jetstream(settings='authorization { user: "homing", password: "right" }') as nats_server,
        redis_server("--requirepass", "right") as redis_,
    ):
        port = {"nats": nats_server.port, "redis": redis_.port, "kafka": free_port()}.get(scheme) or rabbit_port()
        told = sink(f"{scheme}://homing:{SECRET}@{LOCALHOST}:{port}/?timeout=1")
        (outcome,) = await told.send([an_event()])
        await told.close()
    assert not outcome.delivered
    assert outcome.error
    for text in (outcome.error, caplog.text, repr(told)):
        assert SECRET not in text
        assert SPOKEN not in text


class Talkative:
    """A client that says too much."""

    sound = False

    async def dial(self) -> None:
        raise ConnectionError(f"cannot reach\namqp://homing:{SPOKEN}@broker.example")

    async def publish(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        raise NotImplementedError

    async def hang_up(self) -> None:
        pass


async def test_what_a_client_says_of_a_password_is_hidden_and_in_one_line() -> None:
    (spec,) = parse_sinks(f"amqp://homing:{SECRET}@broker.example/")
    told = BrokerSink(spec, Talkative(), read(spec.target).secrets)
    (outcome,) = await told.send([an_event()])
    assert outcome.error == "cannot reach amqp://homing:***@broker.example"


async def test_the_right_password_lets_it_in() -> None:
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
            told = sink(address)
            assert await told.send([an_event()]) == [DELIVERED]
            await told.close()


async def test_a_broker_that_cannot_be_reached_is_found_by_the_check() -> None:
    with redis_server() as server:
        (spec,) = parse_sinks(f"redis://{LOCALHOST}:{server.port}/0")
        await check_sink(spec, NOWHERE)
        server.kill()
        with pytest.raises(NotSent, match="refused"):
            await check_sink(spec, NOWHERE)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("nats://broker.example/", "nats"),
        ("kafka://broker.example/homing", "confluent_kafka"),
        ("amqp://broker.example/", "pika"),
        ("redis://broker.example/0", "redis"),
    ],
)
def test_a_client_that_is_not_installed_is_refused_with_the_command_that_installs_it(address: str, client: str) -> None:
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
        ("nats://host/?stram=X", "an option of its address is not known; there are create, creds, days"),
        ("nats://host/?create=perhaps", "create= must be true or false"),
        ("redis://host/0?maxlen=-1", "maxlen= must be a whole number above 0"),
        ("redis://host/first", "must be the number of a database"),
        ("tls://host/?ca=/nowhere.pem", "cannot be used"),
        ("nats://host/?creds=/nowhere.creds", "the file of creds= cannot be read"),
        ("kafka://host/homing?tls=true&ca=/nowhere.pem", "cannot be used"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(address: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"sink .*: ") as error:
        sink(address)
    assert said in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize("address", ["nats://", "kafka:///homing", "redis://host:port/0"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="sink 1: its address"):
        parse_sinks(address)


def test_what_people_see_of_an_address_shows_neither_who_we_are_there_nor_how() -> None:
    (spec,) = parse_sinks(f"amqps://homing:{SECRET}@broker.example/shop?exchange=told")
    assert spec.address == "amqps://broker.example/shop"
    assert spec.name == "broker.example-shop"
    assert SECRET not in repr(spec)
