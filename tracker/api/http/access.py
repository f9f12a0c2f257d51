"""Decide which client sent a request to the gateway or the API, from its headers.

A client sends a key, ``Authorization: Bearer KEY``, or the provider's HS256 JWT, signed with an access key and its
secret. Keys are always required. The peer's address verifies nothing: a proxy on this machine looks like a local user.

Wrong keys are limited and logged per peer. A correct key is always admitted: behind a proxy all clients share one
address, and the wrong keys of one must not lock out the others. The limit makes wrong keys cheap, gives a misconfigured
client a Retry-After, and keeps the log readable. The length of the keys prevents guessing.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import ClientError, NotAuthenticated, SettingsError, TooMany
from tracker.model.hosts import header_host, ip_of, is_loopback, url_host
from tracker.model.keys import ClientKey, NamedKey, key_fault, secret_fault
from tracker.model.task import ClientIdentity

MAKE_KEY: Final = "Run `homing key NAME` and add the line that it prints, HOMING_API_KEYS=…, to .env or the environment"
CLOCK_LEEWAY: Final = timedelta(seconds=30)
MAX_TOKEN_LIFETIME: Final = timedelta(hours=24)
WILDCARD_HOSTS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised here, not bound
WRONG_KEY_BURST: Final = 10
WRONG_KEY_INTERVAL_SECONDS: Final = 6.0
PEERS_REMEMBERED: Final = 1024
PEER_LOG_INTERVAL_SECONDS: Final = 60.0
LOG_LINES_PER_MINUTE: Final = 20
# The usual length of the network that an internet provider gives to one customer.
IPV6_PREFIX: Final = 64
UNKNOWN_PEER: Final = "unknown"

logger: Final = logging.getLogger("homing.api")


class KeyMissing(NotAuthenticated):
    """No Authorization header, or none with a bearer key."""


class KeyUnknown(NotAuthenticated):
    """A key or token that belongs to no client."""


class TokenClaims(KeyUnknown):
    """A token with a valid signature that lacks a claim, or has an impossible one."""


class KeyTooEarly(NotAuthenticated):
    """A token that is not valid yet."""


class KeyExpired(NotAuthenticated):
    """A token that has expired."""


class WrongHost(ClientError):
    """The Host header has no name of this server."""

    status = 421
    title = "Misdirected request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The keys of the clients, and the names of this server: its bind address, its public URL and more ``hosts``."""

    api_keys: tuple[NamedKey, ...] = ()
    client_keys: tuple[ClientKey, ...] = ()
    host: str = "127.0.0.1"
    public_url: str | None = None
    hosts: tuple[str, ...] = ()


def check_keys(access: Access) -> None:
    """Raise SettingsError if there is no key, or one that is too weak."""
    if not access.api_keys and not access.client_keys:
        raise SettingsError(f"No API key is configured. {MAKE_KEY}.")
    for named in access.api_keys:
        if fault := key_fault(named.key) if named.name else "has no name":
            raise SettingsError(f"HOMING_API_KEYS: the key of {named.name!r} {fault}. {MAKE_KEY}.")
    for pair in access.client_keys:
        if fault := secret_fault(pair.secret) if pair.access else "has no access key":
            raise SettingsError(f"HOMING_CLIENT_KEYS: the secret of {pair.access!r} {fault}. {MAKE_KEY}.")


def admit(access: Access, headers: Mapping[str, str], now: datetime) -> ClientIdentity:
    """Return the client that sent a request. The names of ``headers`` are lower case.

    Raises: WrongHost, or one of the four KeyMissing … KeyExpired.
    """
    check_host(access, headers.get("host", ""))
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise KeyMissing("the request has no key. Send Authorization: Bearer KEY")
    digest = _digest(token)
    # All digests are compared, so the time reveals neither the length of a key nor its position in the list.
    named = [key for key in access.api_keys if hmac.compare_digest(digest, _digest(key.key))]
    if named:
        return ClientIdentity(name=named[-1].name, sees_all=named[-1].sees_all)
    return _from_token(access.client_keys, token, now)


def check_host(access: Access, header: str) -> None:
    """Raise WrongHost unless the Host header names this server. This refuses DNS rebinding."""
    host = header_host(header)
    if is_loopback(host):
        return
    names = {url_host(access.public_url or ""), *(header_host(each) for each in access.hosts)}
    if access.host not in WILDCARD_HOSTS:
        names.add(access.host.lower())
    if host and host in names:
        return
    # A server that is bound to all addresses accepts each numeric address, because DNS cannot rebind one.
    if access.host in WILDCARD_HOSTS and ip_of(host) is not None:
        return
    raise WrongHost("the Host header does not name this server. Add the name to HOMING_ALLOWED_HOSTS")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _from_token(keys: Sequence[ClientKey], token: str, now: datetime) -> ClientIdentity:
    """Return the client of a token in the provider's form (HS256). iss is the access key; exp and nbf are in seconds.

    https://app.klingai.com/global/dev/document-api, "Authentication".
    """
    import jwt  # noqa: PLC0415 - few clients have a key pair, and this import is slow

    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        key = next((key for key in keys if key.access == issuer), None)
        if key is None:
            raise KeyUnknown("the key is unknown")
        claims = jwt.decode(
            token,
            key.secret,
            algorithms=["HS256"],
            options={"require": ["iss", "exp", "nbf"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.MissingRequiredClaimError as error:
        # Only a token with a valid signature gets here, so the error may say what is wrong.
        raise TokenClaims(f"the token has no {error.claim}. Sign iss, exp and nbf") from None
    except (jwt.PyJWTError, ValueError, RecursionError):  # the oldest allowed version of PyJWT raises the last two
        raise KeyUnknown("the key is unknown") from None
    _check_times(_seconds(claims["exp"]), _seconds(claims["nbf"]), now)
    return ClientIdentity(name=key.access)


def _check_times(expires: float, not_before: float, now: datetime) -> None:
    moment, leeway = now.timestamp(), CLOCK_LEEWAY.total_seconds()
    if expires <= moment - leeway:
        raise KeyExpired("the token has expired. Sign a new one")
    if not_before > moment + leeway:
        raise KeyTooEarly("the token is not valid yet. Compare the clocks")
    if expires > moment + leeway + MAX_TOKEN_LIFETIME.total_seconds():
        raise TokenClaims("the token is valid for more than 24 hours. Sign one with a shorter time")


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise TokenClaims("exp and nbf are numbers of seconds")


@dataclass(slots=True)
class _Allowance:
    """An allowance that refills at a constant rate."""

    left: float
    at: float

    def take(self, now: float, *, most: float, interval: float) -> float:
        """Take one and return 0, or return the seconds until one is available."""
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
        """Return the client that sent a request. ``peer`` is the address of the sender, if it is known.

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
            raise TooMany("too many wrong keys came from this address. Send a correct key", retry_after=wait) from None


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
