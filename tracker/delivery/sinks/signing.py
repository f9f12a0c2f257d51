"""The secrets that outgoing webhooks are signed with, and the signature: Standard Webhooks, one per live secret.

https://www.standardwebhooks.com: signed is ``{webhook-id}.{webhook-timestamp}.{body}`` with HMAC-SHA256. The operator's
secrets sign, all of them, so that a receiver may hold either during a rotation. Without one, a secret is generated and
kept in the database, so that replicas share it.
"""

import hmac
import secrets as random_secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from tracker.model.webhook_keys import webhook_key, written_signature

KEY_BYTES: Final = 32
CALLBACKS: Final = "callbacks"
_CLIENT: Final = b"homing callbacks to client "


class SinkSecrets:
    """The keys of each sink, and of each client that is called back.

    ``configured`` are the operator's ``whsec_`` secrets by sink. ``generated`` returns the secret of a name, and
    records the new one that it gets if there is none (``store.secrets.get``). It raises StoreUnavailable.
    """

    def __init__(
        self, generated: Callable[[str, bytes], Awaitable[bytes]], configured: Mapping[str, Sequence[str]]
    ) -> None:
        self._generated = generated
        self._keys = {name: tuple(webhook_key(secret) for secret in secrets) for name, secrets in configured.items()}

    async def of_sink(self, name: str) -> tuple[bytes, ...]:
        """Return the keys that a sink's webhooks are signed with."""
        if keys := self._keys.get(name):
            return keys
        return (await self._generated(f"sink {name}", random_secrets.token_bytes(KEY_BYTES)),)

    async def of_client(self, client: str) -> tuple[bytes, ...]:
        """Return the keys for callbacks to one client: derived from the common secret, so that no list is kept."""
        return tuple(hmac.digest(key, _CLIENT + client.encode(), "sha256") for key in await self.of_sink(CALLBACKS))


def signature_headers(keys: Sequence[bytes], *, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers that prove a body, with one signature for each key."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    signatures = [written_signature(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {"webhook-id": webhook_id, "webhook-timestamp": seconds, "webhook-signature": " ".join(signatures)}
