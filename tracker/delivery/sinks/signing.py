"""The signature of an outgoing webhook: Standard Webhooks, one for each live secret.

https://www.standardwebhooks.com: signed is ``{webhook-id}.{webhook-timestamp}.{body}`` with HMAC-SHA256.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime

from tracker.model.webhook_keys import written_signature


def signature_headers(keys: Sequence[bytes], *, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that prove a body, with one signature for each key."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    signatures = [written_signature(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {"webhook-id": webhook_id, "webhook-timestamp": seconds, "webhook-signature": " ".join(signatures)}
