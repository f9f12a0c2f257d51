"""Admit clients by their key, and limit and log wrong keys per peer.

A correct key is always admitted: behind a proxy all clients share one address, and the wrong keys of one must not lock
out the others. The limit makes wrong keys cheap, gives a misconfigured client a Retry-After, and keeps the log
readable. The length of the keys prevents guessing.
"""

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.api.http.access import Access, KeyUnknown, TokenClaims, admit
from tracker.errors import TooMany
from tracker.model.keys import NamedKey
from tracker.model.task import ClientIdentity

WRONG_KEY_BURST: Final = 10
WRONG_KEY_INTERVAL_SECONDS: Final = 6.0
PEERS_REMEMBERED: Final = 1024
PEER_LOG_INTERVAL_SECONDS: Final = 60.0
LOG_LINES_PER_MINUTE: Final = 20
# An internet provider gives each customer a whole network of this length.
IPV6_PREFIX: Final = 64
UNKNOWN_PEER: Final = "unknown"

logger: Final = logging.getLogger("homing.api")


@dataclass(slots=True)
class _Allowance:
    """The rest of an allowance that refills steadily."""

    left: float
    at: float

    def take(self, now: float, *, most: float, interval: float) -> float:
        """Take one and return 0, or return the seconds until there is one."""
        self.left = min(most, self.left + max(0.0, now - self.at) / interval)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) * interval


@dataclass(slots=True)
class _Peer:
    allowance: _Allowance
    unlogged: int = 0
    logged_at: float | None = None


class WrongKeys:
    """Counts wrong keys per peer, for a bounded number of peers. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._lines = _Allowance(left=LOG_LINES_PER_MINUTE, at=clock())

    def count(self, address: str | None) -> timedelta | None:
        """Count one wrong key, and log it. Return when the peer may try again, or None if it sent few."""
        now, name = self._clock(), peer_name(address)
        peer = self._peers.pop(name, None) or _Peer(allowance=_Allowance(left=WRONG_KEY_BURST, at=now))
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
    """The access check of the API. ``add_key`` adds a key that is only known once the process starts."""

    def __init__(self, access: Access, wrong_keys: WrongKeys | None = None) -> None:
        self._access = access
        self._wrong_keys = wrong_keys or WrongKeys()

    def add_key(self, key: NamedKey) -> None:
        self._access = replace(self._access, api_keys=(*self._access.api_keys, key))

    def admit(self, headers: Mapping[str, str], peer: str | None, now: datetime) -> ClientIdentity:
        """Return the client that a request comes from. ``peer`` is the address of its sender, if it is known.

        Raises: WrongHost, TooMany, or one of the four KeyMissing … KeyExpired.
        """
        try:
            return admit(self._access, headers, now)
        except TokenClaims:
            raise
        except KeyUnknown:
            wait = self._wrong_keys.count(peer)
            if wait is None:
                raise
            raise TooMany("Too many wrong keys came from this address. Send a correct one.", retry_after=wait) from None


def peer_name(address: str | None) -> str:
    """Return the name that a peer is counted and logged under: an IPv4 address, an IPv6 network, or ``unknown``.

    Behind a proxy the address may be a client's own text, which must not reach the log.
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
