"""The format of signing secrets and signatures (Standard Webhooks), for callbacks and webhooks. Pure."""

import base64
import binascii
from typing import Final

PREFIX: Final = "whsec_"
MIN_KEY_BYTES: Final = 16  # the convention (standardwebhooks.com) is 24 to 64


def webhook_key(secret: str) -> bytes:
    """Return the key of a ``whsec_`` secret. Raises: ValueError, which never shows the secret."""
    encoded = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if encoded == secret or len(key) < MIN_KEY_BYTES:
        raise ValueError(f"not valid. Copy the whole secret from the provider's console: {PREFIX} and Base64")
    return key


def written_key(key: bytes) -> str:
    """Return a key as a ``whsec_`` secret."""
    return PREFIX + base64.b64encode(key).decode()


def written_signature(digest: bytes) -> bytes:
    """Return the HMAC-SHA256 of ``{webhook-id}.{webhook-timestamp}.{body}`` in the form of ``webhook-signature``."""
    return b"v1," + binascii.b2a_base64(digest, newline=False)
