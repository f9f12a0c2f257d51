"""Decide who calls the gateway and the API, from values: the key and the Host header.

A client sends a key, ``Authorization: Bearer KEY``, or the official HS256 JWT made from an access key and its secret.
There is no mode without keys. Where a request comes from proves nothing: a proxy on this machine looks like its user.
"""

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import jwt

from tracker.errors import CallerError, NotAuthenticated, SettingsError
from tracker.model.hosts import header_host, ip_of, is_loopback, url_host
from tracker.model.keys import ClientKey, NamedKey, key_fault, secret_fault
from tracker.model.task import Caller

MAKE_KEY: Final = "Run `homing key NAME` and add the line that it prints, HOMING_API_KEYS=…, to .env or the environment"
LEEWAY: Final = timedelta(seconds=30)
LONGEST_TOKEN: Final = timedelta(hours=24)
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised here, not bound


class KeyMissing(NotAuthenticated):
    """No Authorization header, or one that is not a bearer's."""


class KeyUnknown(NotAuthenticated):
    """A key or token that proves nobody."""


class TokenClaims(KeyUnknown):
    """A token that is signed right, and lacks a claim or has one that cannot be."""


class KeyTooEarly(NotAuthenticated):
    """A token that is not valid yet."""


class KeyExpired(NotAuthenticated):
    """A token that is not valid any more."""


class WrongHost(CallerError):
    """The Host header names none of our addresses."""

    status = 421
    title = "Misdirected request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call, and the names of this server: the bind address, the public one, and further ``hosts``."""

    api_keys: tuple[NamedKey, ...] = ()
    client_keys: tuple[ClientKey, ...] = ()
    host: str = "127.0.0.1"
    public_url: str | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a decision needs of one request: its headers (lower-case names) and the peer's address, where known."""

    headers: Mapping[str, str]
    peer: str | None


def check_keys(access: Access) -> None:
    """Raise SettingsError where there is no key, or one that is too weak."""
    if not access.api_keys and not access.client_keys:
        raise SettingsError(f"No API key is configured. {MAKE_KEY}.")
    for named in access.api_keys:
        if fault := key_fault(named.key) if named.name else "has no name":
            raise SettingsError(f"HOMING_API_KEYS: the key of {named.name!r} {fault}. {MAKE_KEY}.")
    for pair in access.client_keys:
        if fault := secret_fault(pair.secret) if pair.access else "has no access key":
            raise SettingsError(f"HOMING_CLIENT_KEYS: the secret of {pair.access!r} {fault}. {MAKE_KEY}.")


def admit(access: Access, asked: Asked, now: datetime) -> Caller:
    """Return the client that a request proves to be. Raises WrongHost, or one of the four KeyMissing … KeyExpired."""
    check_host(access, asked.headers.get("host", ""))
    return _identify(access, asked.headers.get("authorization", ""), now)


def check_host(access: Access, header: str) -> None:
    """Raise WrongHost unless the Host header names us: a rebound DNS name must not pass for this machine."""
    host = header_host(header)
    if is_loopback(host) or host in _names(access):
        return
    # Bound to every address of the machine we answer to each; a numeric address cannot be rebound.
    if access.host in WILDCARDS and ip_of(host) is not None:
        return
    raise WrongHost("the Host header names none of this server's addresses; HOMING_ALLOWED_HOSTS can add one")


def _identify(access: Access, authorization: str, now: datetime) -> Caller:
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise KeyMissing("send Authorization: Bearer KEY")
    named = _named(access.api_keys, token)
    if named is not None:
        return Caller(name=named.name, sees_all=named.sees_all)
    return _from_token(access.client_keys, token, now)


def _named(keys: Sequence[NamedKey], token: str) -> NamedKey | None:
    """Compare digests with every key, so that neither a length nor a place in the list can be timed."""
    digest = _digest(token)
    found: NamedKey | None = None
    for key in keys:
        if hmac.compare_digest(digest, _digest(key.key)):
            found = key
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _from_token(keys: Sequence[ClientKey], token: str, now: datetime) -> Caller:
    """Read the official token, signed with HS256: iss is the access key, exp and nbf are seconds.

    https://app.klingai.com/global/dev/document-api, "Authentication".
    """
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        key = next((key for key in keys if key.access == issuer), None)
        if key is None:
            raise KeyUnknown("the key is not known")
        claims = jwt.decode(
            token,
            key.secret,
            algorithms=["HS256"],
            options={"require": ["iss", "exp", "nbf"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.MissingRequiredClaimError as error:
        # Only what is signed right gets here, so its sender may be told.
        raise TokenClaims(f"the token has no {error.claim}; sign iss, exp and nbf") from None
    except (jwt.PyJWTError, ValueError, RecursionError):  # the oldest PyJWT that we allow lets the latter two through
        raise KeyUnknown("the key is not known") from None
    _check_times(_seconds(claims["exp"]), _seconds(claims["nbf"]), now)
    return Caller(name=key.access)


def _check_times(expires: float, not_before: float, now: datetime) -> None:
    moment, leeway = now.timestamp(), LEEWAY.total_seconds()
    if expires <= moment - leeway:
        raise KeyExpired("the token has expired; sign a new one")
    if not_before > moment + leeway:
        raise KeyTooEarly("the token is not valid yet; compare the clocks")
    if expires > moment + leeway + LONGEST_TOKEN.total_seconds():
        raise TokenClaims("the token is valid for more than 24 hours; sign a shorter one")


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise TokenClaims("exp and nbf are numbers of seconds")


def _names(access: Access) -> frozenset[str]:
    bound = {access.host.lower()} - WILDCARDS
    public = {url_host(access.public_url)} if access.public_url else set[str]()
    return frozenset({*bound, *public, *(header_host(host) for host in access.hosts)} - {""})
