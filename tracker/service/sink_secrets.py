"""The secrets that sign webhooks to sinks and to the clients' callback URLs.

All of the operator's secrets sign each webhook, so that an endpoint may use any of them during a rotation. If the
operator sets none, Homing generates a secret. It is in the database, so that replicas share it.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tracker.model.clock import RandomBytes
from tracker.model.sinks import CALLBACKS
from tracker.model.webhook_keys import webhook_key

KEY_BYTES: Final = 32
_CLIENT: Final = b"homing callbacks to client "


class SinkSecrets:
    """The keys of each sink, and of each client that gets webhooks.

    ``configured`` are the operator's ``whsec_`` secrets by sink. ``generated`` returns the secret of a name, and
    records the new one that it gets if there is none (``store.secrets.get``). It raises StoreUnavailable.
    """

    def __init__(
        self,
        generated: Callable[[str, bytes], Awaitable[bytes]],
        configured: Mapping[str, Sequence[str]],
        *,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._generated = generated
        self._random_bytes = random_bytes
        self._keys = {name: tuple(webhook_key(secret) for secret in secrets) for name, secrets in configured.items()}

    async def of_sink(self, name: str) -> tuple[bytes, ...]:
        """Return the keys that sign a sink's webhooks."""
        if keys := self._keys.get(name):
            return keys
        return (await self._generated(f"sink {name}", self._random_bytes(KEY_BYTES)),)

    async def of_client(self, client: str) -> tuple[bytes, ...]:
        """Return the keys that sign webhooks to one client. They derive from the common secret, so there is no list."""
        return tuple(hmac.digest(key, _CLIENT + client.encode(), "sha256") for key in await self.of_sink(CALLBACKS))
