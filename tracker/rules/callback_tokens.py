"""Callback addresses: both halves of one secret, minting and checking.

A task's address ends in a token that names the task and proves that we made it::

    1 <key id, 8 hex> <task id> - <MAC, 22 characters>

The MAC covers version, key id, provider, purpose and task id, so that a token for one provider or purpose is worth
nothing at another. The first secret mints; all verify, which is how secrets rotate. A standing address carries a random
token instead, of which the store keeps only the hash.
"""

import hashlib
import hmac
from binascii import b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

VERSION: Final = "1"
PURPOSE: Final = "callback"
MAC_BYTES: Final = 16
STANDING_PREFIX: Final = "s"
STANDING_BYTES: Final = 32
SECRET_BYTES: Final = 32
KEYS: Final = 16
TASK_ID_LENGTH: Final = 64
_TASK_ID_AT: Final = 9
_END_LENGTH: Final = 23
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def mint(secrets: Sequence[bytes], *, provider: str, task_id: str) -> str:
    """Make the token of a task's own callback address, with the first of ``secrets``."""
    beginning, covered = _before(secrets[0], provider)
    raw = task_id.encode()
    return (beginning + raw + _end(secrets[0], covered + raw)).decode()


def check(token: str, secrets: Sequence[bytes], *, provider: str) -> str | None:
    """Return the task id that ``token`` proves at ``provider``, or None. Never raises, whatever the text."""
    if not token.isascii():
        return None
    raw = token.encode()
    # All parts but the task id have one length, so a token can be cut in one way only. The others need no look at
    # their letters: they are what we mint, or they are refused.
    task_id, end = raw[_TASK_ID_AT:-_END_LENGTH], raw[-_END_LENGTH:]
    if len(task_id) > TASK_ID_LENGTH or not task_id.isalnum():
        return None
    for secret in secrets:
        beginning, covered = _before(secret, provider)
        # A key id is no secret, it stands in every address; the MAC is compared in constant time.
        if raw.startswith(beginning) and hmac.compare_digest(_end(secret, covered + task_id), end):
            return task_id.decode()
    return None


def address(public_url: str, *, provider: str, token: str) -> str:
    """Return the callback address for a token below ``public_url`` (no trailing slash)."""
    return f"{public_url}/callbacks/{provider}/{token}"


def standing_token(random: bytes) -> str:
    """Make a standing address's token from ``STANDING_BYTES`` random bytes."""
    return STANDING_PREFIX + _text(random).decode()


def standing_hash(token: str) -> str:
    """Return what the store keeps of a standing token: enough to recognise it, useless to use it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@lru_cache(maxsize=KEYS)
def key_id(secret: bytes) -> str:
    """Name a secret without revealing it."""
    return hashlib.sha256(b"homing key id\n" + secret).hexdigest()[:8]


@lru_cache(maxsize=KEYS)
def _before(secret: bytes, provider: str) -> tuple[bytes, bytes]:
    """Return what stands before the task id: in the token, and in what the MAC covers."""
    key = key_id(secret)
    # None of the fields can hold a line feed (the token's shape and the registry of providers see to it), so the
    # joined text is unambiguous.
    covered = f"homing\n{VERSION}\n{key}\n{provider}\n{PURPOSE}\n"
    return (VERSION + key).encode(), covered.encode()


def _end(secret: bytes, covered: bytes) -> bytes:
    return b"-" + _text(hmac.digest(secret, covered, "sha256")[:MAC_BYTES])


def _text(raw: bytes) -> bytes:
    """Write bytes in the Base64 of URLs, without padding."""
    return b2a_base64(raw).translate(_URL_SAFE, b"=\n")
