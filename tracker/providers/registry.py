"""The providers that Homing knows. The names of their settings follow from their names."""

from typing import Final

from tracker.providers.kling import Kling
from tracker.providers.replicate import Replicate

PROVIDERS: Final = (Kling, Replicate)
NAMES: Final = tuple(provider.name for provider in PROVIDERS)
