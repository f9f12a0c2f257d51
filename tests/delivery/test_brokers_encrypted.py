"""Encrypted lines to the brokers: whom a sink believes, and that it says nothing to anybody else.

NATS encrypts by itself; before the others stands a proxy that does, see ``tests/support/brokers/cases.py``.
"""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.brokers.cases import CASES, BrokerCase, sink
from tests.support.brokers.certificates import Authority, Certificate
from tests.support.brokers.events import an_event
from tests.support.brokers.servers import LOCALHOST
from tracker.delivery.sinks.base import DELIVERED

SECRET = "made-up-secret"
ENCRYPTED = {
    "jetstream": "tls://{place}/?create=true&timeout=1",
    "kafka": "kafka://{place}/homing?tls=true&timeout=1",
    "rabbitmq": "amqps://{place}/?timeout=1",
    "redis": "rediss://{place}/0?timeout=1",
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def certificate(authority: Authority) -> Certificate:
    return authority.certificate()


@pytest.fixture(params=CASES)
async def broker(request: pytest.FixtureRequest, certificate: Certificate) -> AsyncIterator[BrokerCase]:
    async with CASES[request.param](certificate) as case:
        yield case


async def test_who_shows_a_certificate_of_the_authority_is_told(broker: BrokerCase, authority: Authority) -> None:
    told = broker.sink(f"ca={authority.file}")
    assert await told.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
    await told.close()
    assert sorted(kept.id for kept in await broker.read()) == [an_event(1).id, an_event(2).id]


async def test_who_shows_one_of_another_authority_is_refused(broker: BrokerCase, tmp_path: Path) -> None:
    await refused(broker, f"ca={Authority(tmp_path, 'other').file}")


async def test_who_shows_one_that_the_system_does_not_know_is_refused(broker: BrokerCase) -> None:
    await refused(broker)


@pytest.mark.parametrize("name", CASES)
async def test_who_shows_one_of_another_host_is_refused(name: str, authority: Authority) -> None:
    async with CASES[name](authority.certificate("elsewhere.example")) as broker:
        await refused(broker, f"ca={authority.file}")


@pytest.mark.parametrize("name", CASES)
async def test_who_speaks_in_the_clear_hears_no_password_and_no_event(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with CASES[name]() as broker:
        broker.line.heard = bytearray()
        told = sink(ENCRYPTED[name].format(place=f"homing:{SECRET}@{LOCALHOST}:{broker.line.port}"))
        (outcome,) = await told.send([an_event()])
        await told.close()
        heard = bytes(broker.line.heard)
        assert await broker.read() == []
    assert not outcome.delivered
    assert outcome.error
    assert broker.line.accepted
    assert SECRET.encode() not in heard
    assert an_event().id.encode() not in heard
    assert SECRET not in outcome.error + caplog.text + "".join(capfd.readouterr())


async def refused(broker: BrokerCase, *options: str) -> None:
    """Send one event: the error says in one line that the broker is not trusted, and nothing arrives."""
    told = broker.sink("timeout=1", *options)
    (outcome,) = await told.send([an_event()])
    await told.close()
    assert not outcome.delivered
    assert not outcome.hopeless
    assert "certificate verify failed" in outcome.error
    assert "\n" not in outcome.error
    assert await broker.read() == []
