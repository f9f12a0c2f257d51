"""The tokens of callback URLs.

A task callback URL ends with a token. It contains the task ID and verifies that Homing created the URL::

    1 <key id, 8 hex> <task id> - <MAC, 22 characters>

The MAC covers version, key ID, provider, purpose and task ID. A token is valid for one provider and one purpose only.
Homing makes tokens with the first secret and accepts tokens of all secrets, so secrets can rotate. A shared callback
URL has a random token instead. The store keeps only the hash of that token.
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
SHARED_PREFIX: Final = "s"
SHARED_BYTES: Final = 32
SECRET_BYTES: Final = 32
KEYS: Final = 16
TASK_ID_LENGTH: Final = 64
_TASK_ID_AT: Final = 9
_END_LENGTH: Final = 23
# Turns Base64 into its URL-safe form without padding.
_URL_TEXT: Final = (bytes.maketrans(b"+/", b"-_"), b"=\n")


def mint(secrets: Sequence[bytes], *, provider: str, task_id: str) -> str:
    """Return the token of a task callback URL, made with the first of ``secrets``."""
    beginning, covered = _before(secrets[0], provider)
    raw = task_id.encode()
    return (beginning + raw + _end(secrets[0], covered + raw)).decode()


def check(token: str, secrets: Sequence[bytes], *, provider: str) -> str | None:
    """Return the task ID in a valid ``token`` of ``provider``, or None. Never raises."""
    if not token.isascii():
        return None
    raw = token.encode()
    # All parts except the task ID have a fixed length, so a token splits in one way only. The comparison below checks
    # the characters of the other parts.
    task_id, end = raw[_TASK_ID_AT:-_END_LENGTH], raw[-_END_LENGTH:]
    if len(task_id) > TASK_ID_LENGTH or not task_id.isalnum():
        return None
    for secret in secrets:
        beginning, covered = _before(secret, provider)
        # The key ID is public: every URL contains it. Only the MAC needs a comparison in constant time.
        if raw.startswith(beginning) and hmac.compare_digest(_end(secret, covered + task_id), end):
            return task_id.decode()
    return None


def callback_url(public_url: str, *, provider: str, token: str) -> str:
    """Return the callback URL of a token below ``public_url`` (no trailing slash)."""
    return f"{public_url}/callbacks/{provider}/{token}"


def shared_token(random: bytes) -> str:
    """Make the token of a shared callback URL from ``SHARED_BYTES`` random bytes."""
    return SHARED_PREFIX + b2a_base64(random).translate(*_URL_TEXT).decode()


def shared_hash(token: str) -> str:
    """Return the hash of a shared token. The store keeps it instead of the token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@lru_cache(maxsize=KEYS)
def key_id(secret: bytes) -> str:
    """Return the public ID of a secret."""
    return hashlib.sha256(b"homing key id\n" + secret).hexdigest()[:8]


@lru_cache(maxsize=KEYS)
def _before(secret: bytes, provider: str) -> tuple[bytes, bytes]:
    """Return the text before the task ID: in the token, and in the input of the MAC."""
    key = key_id(secret)
    # No field can contain a line feed, so the joined text is unambiguous.
    covered = f"homing\n{VERSION}\n{key}\n{provider}\n{PURPOSE}\n"
    return (VERSION + key).encode(), covered.encode()


def _end(secret: bytes, covered: bytes) -> bytes:
    return b"-" + b2a_base64(hmac.digest(secret, covered, "sha256")[:MAC_BYTES]).translate(*_URL_TEXT)
