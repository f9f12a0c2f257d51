"""What every test runs under: a Hypothesis profile that does not measure time on a shared machine.

The usual profile tries the same examples each time, so that a red run means that the code changed; `make test
ARGS="--hypothesis-profile=explore"` tries new ones, and is worth a run now and then.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.postgres import Postgres, running

settings.register_profile("explore", deadline=None, print_blob=True)
settings.register_profile("homing", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("homing")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL for those that share it, each with a database of its own; nobody stops this one."""
    with running() as server:
        yield server
