"""How many random examples a test tries: by night, under the profile `explore`, there is time for more."""

from typing import Final

from hypothesis import settings

USUAL: Final = 100


def examples(usual: int) -> int:
    """Return how many to try where ``usual`` are tried by day."""
    assert settings.default is not None
    return usual * settings.default.max_examples // USUAL
