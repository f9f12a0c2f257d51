"""Callback addresses: both halves of one secret, minting and checking.

A task's address ends in a token that names the task and proves that we made it::

    1 <key id, 8 hex> <task id> - <MAC, 22 characters>

The MAC covers version, key id, provider, purpose and task id, so that a token for one provider or purpose is worth
nothing at another. The first secret mints; all verify, which is how secrets rotate. A standing address carries a random
token instead, of which the store keeps only the hash.
"""

import base64
import hashlib
import hmac
import re
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
_SHAPE: Final = re.compile(r"1([0-9a-f]{8})([0-9A-Za-z]{1,64})-([0-9A-Za-z_-]{22})")


def mint(secrets: Sequence[bytes], *, provider: str, task_id: str) -> str:
    """Make the token of a task's own callback address, with the first of ``secrets``."""
    key = key_id(secrets[0])
    return f"{VERSION}{key}{task_id}-{_mac(secrets[0], key, provider, task_id)}"


def check(token: str, secrets: Sequence[bytes], *, provider: str) -> str | None:
    """Give the task id that ``token`` proves at ``provider``, or None. Never raises, whatever the text."""
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        return None
    key, task_id, mac = shape.groups()
    for secret in secrets:
        if hmac.compare_digest(key_id(secret), key) and hmac.compare_digest(_mac(secret, key, provider, task_id), mac):
            return task_id
    return None


def address(public_url: str, *, provider: str, token: str) -> str:
    """Give the callback address for a token below ``public_url`` (no trailing slash)."""
    return f"{public_url}/callbacks/{provider}/{token}"


def standing_token(random: bytes) -> str:
    """Make a standing address's token from ``STANDING_BYTES`` random bytes."""
    return STANDING_PREFIX + _text(random)


def standing_hash(token: str) -> str:
    """Give what the store keeps of a standing token: enough to recognise it, useless to use it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@lru_cache(maxsize=KEYS)
def key_id(secret: bytes) -> str:
    """Name a secret without telling it."""
    return hashlib.sha256(b"homing key id\n" + secret).hexdigest()[:8]


def _mac(secret: bytes, key: str, provider: str, task_id: str) -> str:
    # None of the fields can hold a line feed (the token's shape and the registry of providers see to it), so the
    # joined text is unambiguous.
    message = f"homing\n{VERSION}\n{key}\n{provider}\n{PURPOSE}\n{task_id}"
    return _text(hmac.digest(secret, message.encode(), "sha256")[:MAC_BYTES])


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
