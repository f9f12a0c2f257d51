"""Signing in to each broker over an encrypted line: who may publishes, who may not is told so and his secret nobody.

NATS and Redis are set up for it, RabbitMQ has its guest, and before Kafka stands a proxy that speaks SASL/PLAIN: the
broker of the wheel knows SCRAM alone, and nobody can be made known to it once it asks who is there. What that broker
itself says of a stranger is shown too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.brokers.cases import jetstream_case, rabbit_case, sink
from tests.support.brokers.certificates import Authority, Certificate
from tests.support.brokers.events import an_event
from tests.support.brokers.proxy import proxy
from tests.support.brokers.readers import Kept, read_jetstream, read_kafka, read_redis
from tests.support.brokers.sasl import signed_in
from tests.support.brokers.servers import LOCALHOST, kafka, redis_server
from tracker.delivery.sinks.base import DELIVERED

RIGHT = "the right/password"
RIGHT_WRITTEN = "the%20right%2Fpassword"
WRONG = "made-up/secret"
WRONG_WRITTEN = "made-up%2Fsecret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A broker that asks who is there. ``address`` has a place for who that is, ``refusal`` is in what it answers."""

    address: str
    right: str
    wrong: str
    refusal: str
    read: Callable[[], Awaitable[Sequence[Kept]]]


@asynccontextmanager
async def nats_user(certificate: Certificate) -> AsyncIterator[Door]:
    users = f'authorization {{ user: homing, password: "{RIGHT}" }}\n'
    async with jetstream_case(certificate, settings=users) as case:
        assert case.server is not None
        yield Door(
            address=f"tls://{{who}}@{LOCALHOST}:{case.line.port}/?create=true",
            right=f"homing:{RIGHT_WRITTEN}",
            wrong=f"homing:{WRONG_WRITTEN}",
            refusal="authorization violation",
            read=partial(read_jetstream, case.server.port, tls=certificate.believed(), user="homing", password=RIGHT),
        )


@asynccontextmanager
async def nats_token(certificate: Certificate) -> AsyncIterator[Door]:
    async with jetstream_case(certificate, settings=f'authorization {{ token: "{RIGHT}" }}\n') as case:
        assert case.server is not None
        yield Door(
            address=f"tls://{{who}}@{LOCALHOST}:{case.line.port}/?create=true",
            right=RIGHT_WRITTEN,
            wrong=WRONG_WRITTEN,
            refusal="authorization violation",
            read=partial(read_jetstream, case.server.port, tls=certificate.believed(), token=RIGHT),
        )


@asynccontextmanager
async def redis_user(certificate: Certificate) -> AsyncIterator[Door]:
    """Who publishes may do that and no more; the tests read as somebody else."""
    password = RIGHT.replace(" ", "-")
    rights = ("homing", "on", f">{password}", "~homing:events", "+xadd", "+client|setname")
    with redis_server("--user", *rights) as server:
        async with proxy(server.port, certificate.shown()) as line:
            yield Door(
                address=f"rediss://{{who}}@{LOCALHOST}:{line.port}/0?stream=homing:events",
                right=f"homing:{password.replace('/', '%2F')}",
                wrong=f"homing:{WRONG_WRITTEN}",
                refusal="invalid username-password pair",
                read=partial(read_redis, server.port),
            )


@asynccontextmanager
async def rabbit_user(certificate: Certificate) -> AsyncIterator[Door]:
    async with rabbit_case(certificate) as case:
        yield Door(
            address=f"amqps://{{who}}@{LOCALHOST}:{case.line.port}/?{case.options}",
            right="guest:guest",
            wrong=f"guest:{WRONG_WRITTEN}",
            refusal="refused",
            read=case.read,
        )


@asynccontextmanager
async def kafka_user(certificate: Certificate) -> AsyncIterator[Door]:
    async with signed_in("homing", RIGHT, certificate) as line:
        with kafka(advertised=line.port) as server:
            line.to = server.port
            as_homing = {"sasl.mechanism": "PLAIN", "sasl.username": "homing", "sasl.password": RIGHT}
            believing = {"security.protocol": "SASL_SSL", "ssl.ca.location": str(certificate.authority)}

            async def read() -> Sequence[Kept]:
                return await asyncio.to_thread(read_kafka, line.port, **as_homing, **believing)

            # It makes a topic for who asks for one; two who ask at once may get two.
            await read()
            yield Door(
                address=f"kafka://{{who}}@{LOCALHOST}:{line.port}/homing?tls=true",
                right=f"homing:{RIGHT_WRITTEN}",
                wrong=f"homing:{WRONG_WRITTEN}",
                refusal="who are you?",
                read=read,
            )


DOORS: dict[str, Callable[[Certificate], AbstractAsyncContextManager[Door]]] = {
    "jetstream": nats_user,
    "jetstream by token": nats_token,
    "kafka": kafka_user,
    "rabbitmq": rabbit_user,
    "redis": redis_user,
}


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Authority(tmp_path).certificate()


@pytest.fixture(params=DOORS)
async def door(request: pytest.FixtureRequest, certificate: Certificate) -> AsyncIterator[Door]:
    async with DOORS[request.param](certificate) as found:
        yield found


async def test_who_is_known_may_publish(door: Door, certificate: Certificate) -> None:
    told = sink(f"{door.address.format(who=door.right)}&ca={certificate.authority}")
    assert await told.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
    await told.close()
    assert sorted(kept.id for kept in await door.read()) == [an_event(1).id, an_event(2).id]


async def test_who_is_not_known_is_refused_in_one_line_that_does_not_show_his_secret(
    door: Door, certificate: Certificate, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told = sink(f"{door.address.format(who=door.wrong)}&timeout=1&ca={certificate.authority}")
    (outcome,) = await told.send([an_event()])
    await told.close()
    assert not outcome.delivered
    assert not outcome.hopeless
    assert door.refusal in outcome.error.lower()
    assert "\n" not in outcome.error
    assert shows_nothing(outcome.error, repr(told), caplog.text, *capfd.readouterr())
    assert await door.read() == []


async def test_what_kafka_itself_says_of_a_stranger_does_not_show_his_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with kafka("--authentication") as server:
        place = f"homing:{WRONG_WRITTEN}@{LOCALHOST}:{server.port}"
        told = sink(f"kafka://{place}/homing?timeout=1&sasl=SCRAM-SHA-256")
        (outcome,) = await told.send([an_event()])
        await told.close()
    assert not outcome.delivered
    assert "authentication failed" in outcome.error
    assert shows_nothing(outcome.error, repr(told), caplog.text, *capfd.readouterr())


def shows_nothing(*texts: str) -> bool:
    return not any(secret in text for text in texts for secret in (WRONG, WRONG_WRITTEN))
