"""A bounded amount that clients share: bytes in memory, or slots for requests.

A client may hold at most twice the amount that stays free. A single client gets two thirds. The more is taken, the less
a client can add to what it holds. So a new client always gets something, and nothing has to be reserved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tracker.errors import Overloaded

MAX_HELD_PER_FREE: Final = 2


class SharedCapacity:
    """``size`` bytes or slots. ``full`` is the error text if nothing more fits."""

    def __init__(self, size: int, full: str) -> None:
        self._left = size
        self._full = full
        self._held: dict[str, int] = {}

    @property
    def left(self) -> int:
        """The amount that is free."""
        return self._left

    def held(self, client: str) -> int:
        """Return the amount that a client holds."""
        return self._held.get(client, 0)

    @contextmanager
    def holding(self, client: str, amount: int) -> Iterator[None]:
        """Hold an amount for a client within the block. Raises: Overloaded."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give(client, amount)

    def take(self, client: str, amount: int = 1) -> None:
        """Take an amount for a client. Raises: Overloaded."""
        left, held = self._left - amount, self._held.get(client, 0) + amount
        if held > MAX_HELD_PER_FREE * left:
            raise Overloaded(self._full)
        self._left = left
        self._held[client] = held

    def give(self, client: str, amount: int = 1) -> None:
        """Release an amount that a client took."""
        self._left += amount
        held = self._held[client] - amount
        if held:
            self._held[client] = held
        else:
            # The names of clients that hold nothing are not kept.
            del self._held[client]
