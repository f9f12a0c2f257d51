"""What every test runs under: a Hypothesis profile that does not measure time on a shared machine.

The usual profile tries the same examples each time, so that a red run means that the code changed; by night `make
nightly` tries new ones, and ten times as many.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
import uvloop
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings

from tests.support.databases import sqlite_url
from tests.support.examples import USUAL
from tests.support.postgres import Postgres, running
from tests.support.relay_harness import RelayHarness, relay_harness
from tests.support.shared_statements import shared_statements
from tests.support.signals import restore_defaults_for_children
from tracker.delivery.timing import RELAY_TIMING
from tracker.storage.store import Store

settings.register_profile("explore", deadline=None, print_blob=True, max_examples=10 * USUAL)
settings.register_profile(
    "homing", settings.get_profile("explore"), max_examples=USUAL, derandomize=True, database=None
)
settings.load_profile("homing")

restore_defaults_for_children()

# A request without a timeout of its own has httpx's five seconds. A busy machine can take longer to answer.
for _step in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _step, 60.0)

# These tests run on the event loop that `homing serve` runs on.
SERVED = {"api", "cli", "delivery", "receiver", "reconciler", "sandbox", "server"}
TESTS = Path(__file__).parent


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loops that a test runs on; one each."""
    if item.path.relative_to(TESTS).parts[0] in SERVED:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a PostgreSQL server, so that ``-k "not postgres"`` leaves them out."""
    for item in items:
        if isinstance(item, pytest.Function) and "postgres" in item.fixturenames:
            item.add_marker(pytest.mark.postgres)


@pytest.fixture(scope="session", autouse=True)
def _one_context() -> Iterator[None]:
    """Let all HTTP clients share what they trust: reading the usual authorities takes longer than most tests."""
    make = ssl.create_default_context
    # What httpx reads: the variable of the environment, else the file of certifi.
    usual = os.environ.get("SSL_CERT_FILE") or certifi.where()
    shared = make(cafile=usual)

    def context(*purpose: ssl.Purpose, cafile: str | None = None, **options: Any) -> ssl.SSLContext:
        return shared if cafile == usual and not (purpose or options) else make(*purpose, cafile=cafile, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", context)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_statement_cache() -> Iterator[None]:
    with shared_statements():
        yield


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture
def postgres(_postgres: Postgres) -> Iterator[Postgres]:
    """Yield a PostgreSQL that all share and nobody stops; a test's databases are dropped as it ends."""
    yield _postgres
    _postgres.drop()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a fresh database with all its tables: one test for each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayHarness]:
    """Yield a harness that delivers to one sink, step by step."""
    # Progress is recorded where a test says so.
    timing = replace(RELAY_TIMING, grace=timedelta(milliseconds=50), settle=timedelta(hours=1))
    async with relay_harness(sqlite_url(tmp_path), timing) as one:
        yield one
