"""The one rule of what a provider's signing secret is. Pure; settings and receiver read it here."""

import base64
import binascii
from typing import Final

PREFIX: Final = "whsec_"
SHORTEST_KEY: Final = 16  # bytes; the convention (standardwebhooks.com) asks for 24 to 64


def webhook_key(secret: str) -> bytes:
    """Give the key of a ``whsec_`` secret. Raises ValueError that says what to do and never shows the secret."""
    encoded = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if encoded == secret or len(key) < SHORTEST_KEY:
        raise ValueError(f"copy the whole secret from the provider's console: {PREFIX} and Base64")
    return key
