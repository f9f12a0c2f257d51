"""One sink as the settings name it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracker.delivery.sinks.filters import EVERYTHING, Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSpec:
    """A sink's address, read: nothing is imported, opened or resolved yet.

    ``target`` is the address without our options and may hold a secret; ``address`` is what people may see of it.
    ``options`` are those that only this scheme has.
    """

    name: str
    scheme: str
    target: str = field(repr=False)
    address: str
    filter: Filter = EVERYTHING
    beginning: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"
