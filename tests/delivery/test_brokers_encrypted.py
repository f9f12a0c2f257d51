"""Encrypted connections to the brokers: a sink sends only to a broker with a trusted certificate.

NATS has its own TLS. The other brokers are behind a TLS proxy, see ``tests/support/brokers/cases.py``.
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


async def test_trusted_certificate_gets_events(broker: BrokerCase, authority: Authority) -> None:
    broker_sink = broker.sink(f"ca={authority.file}")
    assert await broker_sink.send([an_event(1), an_event(2)]) == [DELIVERED] * 2
    await broker_sink.close()
    assert sorted(kept.id for kept in await broker.read()) == [an_event(1).id, an_event(2).id]


async def test_certificate_of_other_authority_is_refused(broker: BrokerCase, tmp_path: Path) -> None:
    await refused(broker, f"ca={Authority(tmp_path, 'other').file}")


async def test_certificate_unknown_to_system_is_refused(broker: BrokerCase) -> None:
    await refused(broker)


@pytest.mark.parametrize("name", CASES)
async def test_certificate_of_other_host_is_refused(name: str, authority: Authority) -> None:
    async with CASES[name](authority.certificate("elsewhere.example")) as broker:
        await refused(broker, f"ca={authority.file}")


@pytest.mark.parametrize("name", CASES)
async def test_plaintext_broker_gets_no_password_or_event(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with CASES[name]() as broker:
        broker.line.heard = bytearray()
        broker_sink = sink(ENCRYPTED[name].format(place=f"homing:{SECRET}@{LOCALHOST}:{broker.line.port}"))
        (outcome,) = await broker_sink.send([an_event()])
        await broker_sink.close()
        heard = bytes(broker.line.heard)
        assert await broker.read() == []
    assert not outcome.delivered
    assert outcome.error
    assert broker.line.accepted
    assert SECRET.encode() not in heard
    assert an_event().id.encode() not in heard
    assert SECRET not in outcome.error + caplog.text + "".join(capfd.readouterr())


async def refused(broker: BrokerCase, *options: str) -> None:
    """Assert that sending one event fails with a one-line certificate error, and that nothing arrives."""
    broker_sink = broker.sink("timeout=1", *options)
    (outcome,) = await broker_sink.send([an_event()])
    await broker_sink.close()
    assert not outcome.delivered
    assert not outcome.hopeless
    assert "certificate verify failed" in outcome.error
    assert "\n" not in outcome.error
    assert await broker.read() == []
