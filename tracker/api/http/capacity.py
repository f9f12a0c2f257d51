"""What requests hold while they are answered: memory for their bodies, and places among the connections.

No client gets all places. The API as a whole gets fewer than there are connections, so a callback always finds one.
Only admitted requests hold anything.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tracker.errors import TooMany
from tracker.model.rooms import Room

# The connections of one process, if it may open enough files: far more than it answers at once.
DEFAULT_CONNECTIONS: Final = 4000
# The parts of the connections that the API may use in all, and that streams and long polls may use.
API_SHARE: Final = 7 / 8
WAITS_SHARE: Final = 3 / 4
# With fewer places no client could have one: see ``Room``.
MIN_PLACES: Final = 3
WAITS_RETRY_AFTER: Final = timedelta(seconds=5)
BODIES_FULL: Final = "too many large requests arrive at once; nothing was sent to the provider"
REQUESTS_FULL: Final = "too many requests are being answered at once; nothing was done"
WAITS_FULL: Final = "too many streams and long polls are open at this server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, and the time that a whole body may take. The gateway's bodies hold images, the API's do not.

    ``body_room`` is the number of bytes of bodies that may arrive at once, over all requests. ``batch_time`` is how
    long a query for several tasks may wait for the provider. ``connections`` is the number that the server takes,
    ``waits_per_client`` the number of streams and long polls that one client may have open.
    """

    body: int = 1 << 20
    body_time: timedelta = timedelta(seconds=10)
    gateway_body: int = 32 << 20
    gateway_body_time: timedelta = timedelta(seconds=30)
    body_room: int = 256 << 20
    batch_time: timedelta = timedelta(seconds=18)
    connections: int = DEFAULT_CONNECTIONS
    waits_per_client: int = 200


class Capacity:
    """What all requests of one application share, within its limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bodies = Room(limits.body_room, BODIES_FULL)
        self.requests = Room(max(int(limits.connections * API_SHARE), MIN_PLACES), REQUESTS_FULL)
        self.waits = Room(max(int(limits.connections * WAITS_SHARE), MIN_PLACES), WAITS_FULL)


class RequestResources:
    """The memory and the places that one request holds, until ``release``."""

    __slots__ = ("_bytes", "_capacity", "_client", "_places", "_waits")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._client = ""
        self._bytes = 0
        self._places = 0
        self._waits = 0

    def admit(self, client: str) -> None:
        """Take a place for an admitted request. Raises Overloaded."""
        self._capacity.requests.take(client)
        self._client = client
        self._places = 1

    def wait(self) -> None:
        """Take a place for a stream or a long poll. Raises TooMany or Overloaded."""
        waits, most = self._capacity.waits, self._capacity.limits.waits_per_client
        if waits.held(self._client) >= most:
            raise TooMany(
                f"this key has {most} streams and long polls open, which is the limit. "
                "Close one, or raise HOMING_STREAMS_PER_CLIENT",
                retry_after=WAITS_RETRY_AFTER,
            )
        waits.take(self._client)
        self._waits = 1

    def take_bytes(self, size: int) -> None:
        """Count bytes of the body that have arrived. Raises Overloaded."""
        self._capacity.bodies.take(self._client, size)
        self._bytes += size

    def give_bytes(self) -> None:
        """Stop counting the body: it has left memory, or is counted elsewhere."""
        if self._bytes:
            self._capacity.bodies.give(self._client, self._bytes)
            self._bytes = 0

    def release(self) -> None:
        """Release all that the request holds."""
        self.give_bytes()
        if self._places:
            self._capacity.requests.give(self._client)
            self._places = 0
        if self._waits:
            self._capacity.waits.give(self._client)
            self._waits = 0
