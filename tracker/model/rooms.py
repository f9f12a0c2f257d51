"""A bounded amount that clients share: bytes in memory, or places for requests.

A client may hold at most twice what stays free. Alone it gets two thirds; the more is taken, the less a client may add
to what it holds already. So a newcomer always finds something, and nothing has to be reserved for anybody.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tracker.errors import Overloaded

SHARE: Final = 2


class Room:
    """``size`` bytes or places; ``full`` is the sentence of the error where nothing more fits."""

    def __init__(self, size: int, full: str) -> None:
        self._left = size
        self._full = full
        self._held: dict[str, int] = {}

    @property
    def left(self) -> int:
        """How much is free."""
        return self._left

    def held(self, client: str) -> int:
        """Return how much a client holds."""
        return self._held.get(client, 0)

    @contextmanager
    def holding(self, client: str, amount: int) -> Iterator[None]:
        """Hold an amount for a client meanwhile. Raises Overloaded."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give(client, amount)

    def take(self, client: str, amount: int = 1) -> None:
        """Take an amount for a client. Raises Overloaded."""
        left, held = self._left - amount, self._held.get(client, 0) + amount
        if held > SHARE * left:
            raise Overloaded(self._full)
        self._left = left
        self._held[client] = held

    def give(self, client: str, amount: int = 1) -> None:
        """Release what a client took."""
        self._left += amount
        held = self._held[client] - amount
        if held:
            self._held[client] = held
        else:
            # Names of clients that hold nothing are not kept.
            del self._held[client]
