"""Admit clients by their key, and limit and log wrong keys per peer.

A correct key is admitted whatever else comes from its peer: behind a proxy all clients share one address, and the wrong
keys of one must not lock out the others. So the limit slows nobody down who has a key; it makes wrong ones cheap, tells
a misconfigured client when to come back, and keeps the log readable. Guessing is stopped by the length of the keys.
"""

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.api.http.access import Access, Asked, KeyUnknown, TokenClaims, admit
from tracker.errors import TooMany
from tracker.model.keys import NamedKey
from tracker.model.task import Caller

WRONG_KEY_BURST: Final = 10
WRONG_KEY_INTERVAL_SECONDS: Final = 6.0
PEERS_REMEMBERED: Final = 1024
PEER_LOG_INTERVAL_SECONDS: Final = 60.0
LOG_LINES_PER_MINUTE: Final = 20
# One customer of a provider has a whole network of this length.
IPV6_PREFIX: Final = 64
UNKNOWN_PEER: Final = "unknown"

logger: Final = logging.getLogger("homing.api")


@dataclass(slots=True)
class _Bucket:
    """What remains of an allowance that refills steadily."""

    left: float
    at: float

    def take(self, now: float, *, most: float, interval: float) -> float:
        """Take one and return 0, or return how many seconds it is until there is one."""
        self.left = min(most, self.left + max(0.0, now - self.at) / interval)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) * interval


@dataclass(slots=True)
class _Peer:
    allowance: _Bucket
    unlogged: int = 0
    logged_at: float | None = None


class WrongKeys:
    """Counts wrong keys per peer, for a bounded number of peers. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._lines = _Bucket(left=LOG_LINES_PER_MINUTE, at=clock())

    def count(self, address: str | None) -> timedelta | None:
        """Count one wrong key, and log it. Return when the peer may try again, where it sent too many."""
        now, name = self._clock(), peer_name(address)
        peer = self._peers.pop(name, None) or _Peer(allowance=_Bucket(left=WRONG_KEY_BURST, at=now))
        self._peers[name] = peer
        if len(self._peers) > PEERS_REMEMBERED:
            self._peers.popitem(last=False)
        self._log(name, peer, now)
        wait = peer.allowance.take(now, most=WRONG_KEY_BURST, interval=WRONG_KEY_INTERVAL_SECONDS)
        return timedelta(seconds=wait) if wait else None

    def _log(self, name: str, peer: _Peer, now: float) -> None:
        peer.unlogged += 1
        if peer.logged_at is not None and now - peer.logged_at < PEER_LOG_INTERVAL_SECONDS:
            return
        if self._lines.take(now, most=LOG_LINES_PER_MINUTE, interval=60 / LOG_LINES_PER_MINUTE):
            return
        logger.warning("wrong API key: peer=%s count=%d", name, peer.unlogged)
        peer.unlogged, peer.logged_at = 0, now


class AccessGuard:
    """Stands before the API. ``add_key`` admits one more key, for a key that is only known once the process starts."""

    def __init__(self, access: Access, wrong_keys: WrongKeys | None = None) -> None:
        self._access = access
        self._wrong_keys = wrong_keys or WrongKeys()

    def add_key(self, key: NamedKey) -> None:
        self._access = replace(self._access, api_keys=(*self._access.api_keys, key))

    def admit(self, asked: Asked, now: datetime) -> Caller:
        """Return the client that a request proves to be.

        Raises: WrongHost, TooMany, or one of the four KeyMissing … KeyExpired.
        """
        try:
            return admit(self._access, asked, now)
        except TokenClaims:
            raise
        except KeyUnknown:
            wait = self._wrong_keys.count(asked.peer)
            if wait is None:
                raise
            raise TooMany("Too many wrong keys came from this address. Send a correct one.", retry_after=wait) from None


def peer_name(address: str | None) -> str:
    """Return what a peer is counted and logged as: an IPv4 address, the network of an IPv6 one, or ``unknown``.

    A server behind a proxy may put a client's own text there, which must not reach the log.
    """
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return UNKNOWN_PEER
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), IPV6_PREFIX), strict=False))
