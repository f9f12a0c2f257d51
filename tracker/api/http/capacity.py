"""The resources that a request holds until it is answered: memory for its body, and a slot for its connection.

No client gets all slots. The API gets fewer slots than there are connections, so a callback always finds a connection.
Only admitted requests hold resources.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tracker.errors import TooMany
from tracker.model.shared_capacity import SharedCapacity

# The connections of one process, if it may open enough files. It answers far fewer at the same time.
DEFAULT_CONNECTIONS: Final = 4000
# The share of the connections that the API may use, and that streams and long polls may use.
API_SHARE: Final = 7 / 8
WAITS_SHARE: Final = 3 / 4
# With fewer slots, ``SharedCapacity`` gives none to any client.
MIN_SLOTS: Final = 3
WAITS_RETRY_AFTER: Final = timedelta(seconds=5)
BODIES_FULL: Final = "too many large requests arrive at once. Nothing was sent to the provider; try again"
REQUESTS_FULL: Final = "too many requests are being answered at once. Nothing was done; try again"
WAITS_FULL: Final = "too many streams and long polls are open at this server. Try again later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, and the time that a whole body may take. The gateway's bodies contain images.

    ``body_capacity`` is the number of bytes of bodies that may arrive at once, over all requests. ``batch_time`` is how
    long a query for several tasks may wait for the provider. ``connections`` is the number that the server accepts.
    ``waits_per_client`` is the number of streams and long polls that one client may have open.
    """

    body: int = 1 << 20
    body_time: timedelta = timedelta(seconds=10)
    gateway_body: int = 32 << 20
    gateway_body_time: timedelta = timedelta(seconds=30)
    body_capacity: int = 256 << 20
    batch_time: timedelta = timedelta(seconds=18)
    connections: int = DEFAULT_CONNECTIONS
    waits_per_client: int = 200


class Capacity:
    """The resources that all requests of one application share."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bodies = SharedCapacity(limits.body_capacity, BODIES_FULL)
        self.requests = SharedCapacity(max(int(limits.connections * API_SHARE), MIN_SLOTS), REQUESTS_FULL)
        self.waits = SharedCapacity(max(int(limits.connections * WAITS_SHARE), MIN_SLOTS), WAITS_FULL)


class RequestResources:
    """The memory and the slots that one request holds until ``release``."""

    __slots__ = ("_bytes", "_capacity", "_client", "_slots", "_waits")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._client = ""
        self._bytes = 0
        self._slots = 0
        self._waits = 0

    def admit(self, client: str) -> None:
        """Take a slot for an admitted request. Raises: Overloaded."""
        self._capacity.requests.take(client)
        self._client = client
        self._slots = 1

    def wait(self) -> None:
        """Take a slot for a stream or a long poll. Raises: TooMany, Overloaded."""
        waits, most = self._capacity.waits, self._capacity.limits.waits_per_client
        if waits.held(self._client) >= most:
            raise TooMany(
                f"this client has {most} streams and long polls open, which is the limit. "
                "Close one, or raise HOMING_STREAMS_PER_CLIENT",
                retry_after=WAITS_RETRY_AFTER,
            )
        waits.take(self._client)
        self._waits = 1

    def take_bytes(self, size: int) -> None:
        """Count bytes of the body that have arrived. Raises: Overloaded."""
        self._capacity.bodies.take(self._client, size)
        self._bytes += size

    @property
    def body_bytes(self) -> int:
        """The counted bytes of the body."""
        return self._bytes

    def release_bytes(self) -> None:
        """Stop counting the body, because it is no longer in memory or is counted elsewhere."""
        if self._bytes:
            self._capacity.bodies.give(self._client, self._bytes)
            self._bytes = 0

    def release(self) -> None:
        """Release everything that the request holds."""
        self.release_bytes()
        if self._slots:
            self._capacity.requests.give(self._client)
            self._slots = 0
        if self._waits:
            self._capacity.waits.give(self._client)
            self._waits = 0
