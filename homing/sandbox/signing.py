"""Signatures on callbacks: the provider's, and forged ones.

Documented (official callback page, since 2026-08-07): Standard Webhooks; the key is the Base64 after `whsec_`; the
signed text is `{webhook-id}.{webhook-timestamp}.{raw body}`; HMAC-SHA256; Base64 after `v1,`; during a rotation one
signature per valid secret, separated by a space.
"""

import base64
import hashlib
import hmac
from typing import Literal, assert_never

from homing.sandbox.settings import SECRET_PREFIX

Seal = Literal["genuine", "none", "wrong_key", "malformed", "stale", "altered"]
"""How a callback is signed. `stale` is an hour old; `altered` is signed for another body."""

STALE_BY_SECONDS = 3600
_FORGED_KEY = f"{SECRET_PREFIX}{base64.b64encode(b'a key that an attacker made up').decode()}"
_MALFORMED = "v1;not-base64! v1 v2,AAAA v1,"


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature, `v1,<Base64>`. The timestamp is in seconds."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    message = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()}"


def seal(kind: Seal, *, secrets: tuple[str, ...], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the signature headers. Without a secret there are none, as documented."""
    match kind:
        case "none":
            return {}
        case "genuine":
            signatures = [sign(secret, webhook_id, timestamp, body) for secret in secrets]
        case "stale":
            timestamp -= STALE_BY_SECONDS
            signatures = [sign(secret, webhook_id, timestamp, body) for secret in secrets]
        case "altered":
            signatures = [sign(secret, webhook_id, timestamp, body + b" ") for secret in secrets]
        case "wrong_key":
            signatures = [sign(_FORGED_KEY, webhook_id, timestamp, body)]
        case "malformed":
            signatures = [_MALFORMED]
        case _:
            assert_never(kind)
    if not signatures:
        return {}
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
