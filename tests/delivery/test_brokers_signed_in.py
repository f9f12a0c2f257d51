"""Login at each broker over TLS: a valid credential can publish, and the error of an invalid one hides the secret.

NATS and Redis are configured with users, and RabbitMQ has its guest user. Kafka is behind a proxy with SASL/PLAIN.
The packaged Kafka broker supports only SCRAM, and users cannot be added after it requires a login.
Another test checks the error of that broker itself.
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
class LoginCase:
    """A broker that requires a login. ``address`` has the placeholder ``{who}``; the error contains ``refusal``."""

    address: str
    right: str
    wrong: str
    refusal: str
    read: Callable[[], Awaitable[Sequence[Kept]]]


@asynccontextmanager
async def nats_user(certificate: Certificate) -> AsyncIterator[LoginCase]:
    users = f'authorization {{ user: homing, password: "{RIGHT}" }}\n'
    async with jetstream_case(certificate, settings=users) as case:
        assert case.server is not None
        yield LoginCase(
            address=f"tls://{{who}}@{LOCALHOST}:{case.line.port}/?create=true",
            right=f"homing:{RIGHT_WRITTEN}",
            wrong=f"homing:{WRONG_WRITTEN}",
            refusal="authorization violation",
            read=partial(
                read_jetstream, case.server.port, tls=certificate.trusted_by_clients(), user="homing", password=RIGHT
            ),
        )


@asynccontextmanager
async def nats_token(certificate: Certificate) -> AsyncIterator[LoginCase]:
    async with jetstream_case(certificate, settings=f'authorization {{ token: "{RIGHT}" }}\n') as case:
        assert case.server is not None
        yield LoginCase(
            address=f"tls://{{who}}@{LOCALHOST}:{case.line.port}/?create=true",
            right=RIGHT_WRITTEN,
            wrong=WRONG_WRITTEN,
            refusal="authorization violation",
            read=partial(read_jetstream, case.server.port, tls=certificate.trusted_by_clients(), token=RIGHT),
        )


@asynccontextmanager
async def redis_user(certificate: Certificate) -> AsyncIterator[LoginCase]:
    """Yield a Redis whose user may only publish. The tests read as another user."""
    password = RIGHT.replace(" ", "-")
    rights = ("homing", "on", f">{password}", "~homing:events", "+xadd", "+client|setname")
    with redis_server("--user", *rights) as server:
        async with proxy(server.port, certificate.shown()) as line:
            yield LoginCase(
                address=f"rediss://{{who}}@{LOCALHOST}:{line.port}/0?stream=homing:events",
                right=f"homing:{password.replace('/', '%2F')}",
                wrong=f"homing:{WRONG_WRITTEN}",
                refusal="invalid username-password pair",
                read=partial(read_redis, server.port),
            )


@asynccontextmanager
async def rabbit_user(certificate: Certificate) -> AsyncIterator[LoginCase]:
    async with rabbit_case(certificate) as case:
        yield LoginCase(
            address=f"amqps://{{who}}@{LOCALHOST}:{case.line.port}/?{case.options}",
            right="guest:guest",
            wrong=f"guest:{WRONG_WRITTEN}",
            refusal="refused",
            read=case.read,
        )


@asynccontextmanager
async def kafka_user(certificate: Certificate) -> AsyncIterator[LoginCase]:
    async with signed_in("homing", RIGHT, certificate) as line:
        with kafka(advertised=line.port) as server:
            line.to = server.port
            as_homing = {"sasl.mechanism": "PLAIN", "sasl.username": "homing", "sasl.password": RIGHT}
            believing = {"security.protocol": "SASL_SSL", "ssl.ca.location": str(certificate.authority)}

            async def read() -> Sequence[Kept]:
                return await asyncio.to_thread(read_kafka, line.port, **as_homing, **believing)

            # Kafka creates a topic on the first request. Two requests at the same time can create two.
            await read()
            yield LoginCase(
                address=f"kafka://{{who}}@{LOCALHOST}:{line.port}/homing?tls=true",
                right=f"homing:{RIGHT_WRITTEN}",
                wrong=f"homing:{WRONG_WRITTEN}",
                refusal="who are you?",
                read=read,
            )


LOGIN_CASES: dict[str, Callable[[Certificate], AbstractAsyncContextManager[LoginCase]]] = {
    "jetstream": nats_user,
    "jetstream by token": nats_token,
    "kafka": kafka_user,
    "rabbitmq": rabbit_user,
    "redis": redis_user,
}


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Authority(tmp_path).certificate()


@pytest.fixture(params=LOGIN_CASES)
async def login(request: pytest.FixtureRequest, certificate: Certificate) -> AsyncIterator[LoginCase]:
    async with LOGIN_CASES[request.param](certificate) as found:
        yield found


async def test_valid_credential_may_publish(login: LoginCase, certificate: Certificate) -> None:
    broker_sink = sink(f"{login.address.format(who=login.right)}&ca={certificate.authority}")
    assert await broker_sink.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
    await broker_sink.close()
    assert sorted(kept.id for kept in await login.read()) == [an_event(1).id, an_event(2).id]


async def test_invalid_credential_error_hides_the_secret(
    login: LoginCase, certificate: Certificate, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    broker_sink = sink(f"{login.address.format(who=login.wrong)}&timeout=1&ca={certificate.authority}")
    (outcome,) = await broker_sink.send([an_event()])
    await broker_sink.close()
    assert not outcome.delivered
    assert not outcome.hopeless
    assert login.refusal in outcome.error.lower()
    assert "\n" not in outcome.error
    assert shows_nothing(outcome.error, repr(broker_sink), caplog.text, *capfd.readouterr())
    assert await login.read() == []


async def test_kafka_scram_refusal_hides_the_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with kafka("--authentication") as server:
        place = f"homing:{WRONG_WRITTEN}@{LOCALHOST}:{server.port}"
        broker_sink = sink(f"kafka://{place}/homing?timeout=1&sasl=SCRAM-SHA-256")
        (outcome,) = await broker_sink.send([an_event()])
        await broker_sink.close()
    assert not outcome.delivered
    assert "authentication failed" in outcome.error
    assert shows_nothing(outcome.error, repr(broker_sink), caplog.text, *capfd.readouterr())


def shows_nothing(*texts: str) -> bool:
    return not any(secret in text for text in texts for secret in (WRONG, WRONG_WRITTEN))
