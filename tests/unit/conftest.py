"""What the unit tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api_harness import ApiHarness, api_harness


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiHarness]:
    """Yield the API over an open tracker without tasks."""
    async with api_harness(tmp_path) as harness:
        yield harness
