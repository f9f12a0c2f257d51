"""What every test runs under: a Hypothesis profile that does not measure time on a shared machine.

The usual profile tries the same examples each time, so that a red run means that the code changed; `make test
ARGS="--hypothesis-profile=explore"` tries new ones, and is worth a run now and then.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from tests.postgres import Postgres, running
from tests.signals import restore_defaults_for_children
from tracker.storage.store import Store

settings.register_profile("explore", deadline=None, print_blob=True)
settings.register_profile("homing", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("homing")

restore_defaults_for_children()


@pytest.fixture(scope="session", autouse=True)
def _few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one of the usual authorities, not all: each HTTP client reads them, which takes longer than most tests."""
    usual = Path(certifi.where()).read_text()
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("authorities") / "first.pem"
    file.write_text(usual[: usual.index(end)] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(file))
        yield


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture
def postgres(_postgres: Postgres) -> Iterator[Postgres]:
    """Give a PostgreSQL that all share and nobody stops; a test's databases are dropped as it ends."""
    yield _postgres
    _postgres.drop()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the address of a fresh database: one test for each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'homing.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    await store.open()
    yield store
    await store.close()
