"""External ids that a restored database makes again: a keyed hash over whose task it is and what is wanted.

Where a client names its submit, the provider gets an id that follows from that name. If the database comes back from a
backup, and the client sends the same again, the provider gets the same id and refuses it: the task that was forgotten
is found instead of made and charged again. The key is a secret of this installation, kept in the database and therefore
part of every backup, so that two installations at one account never meet.
"""

import hashlib
import hmac
import json
import secrets as random_secrets
from typing import Final

from tracker.models import Task, crockford
from tracker.storage.store import Store

SECRET: Final = "external ids"  # noqa: S105 - the name under which the secret is kept
SECRET_BYTES: Final = 32
GENERATIONS_AT_ONCE: Final = 100


class ExternalIds:
    """The ids that a provider is given, by the generation of a wish: 0, and one more for each deliberate repeat."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self) -> None:
        """Make the secret of this installation where there is none, so that every backup has it."""
        await self._secret()

    async def of(self, task: Task, generation: int) -> str:
        """Return the external id of a named submit: letters and digits, 28 of them, as task ids have."""
        return external_id(await self._secret(), task, generation)

    async def next_generation(self, task: Task, generation: int) -> int:
        """Return the first generation from ``generation`` on whose id no row has."""
        while True:
            ids = [await self.of(task, generation + number) for number in range(GENERATIONS_AT_ONCE)]
            used = await self._store.sent_ids_used(task.provider, task.account, ids)
            free = next((number for number, one in enumerate(ids) if one not in used), None)
            if free is not None:
                return generation + free
            generation += GENERATIONS_AT_ONCE

    async def _secret(self) -> bytes:
        return await self._store.generated_secret(SECRET, random_secrets.token_bytes(SECRET_BYTES))


def external_id(secret: bytes, task: Task, generation: int) -> str:
    """Hash a wish into an external id. Everything that tells two wishes apart is in it; nothing can be read from it."""
    parts = (
        *(task.provider, task.account, task.kind, task.client),
        *(task.external_id, task.idempotency_key, task.request_hash),
        generation,
    )
    digest = hmac.digest(secret, json.dumps(parts).encode(), hashlib.sha256)
    return "hm" + crockford(int.from_bytes(digest[:16], "big"))


def is_named(task: Task) -> bool:
    """Return whether a client named its submit, so that it is recognized when it comes again."""
    return task.external_id is not None or task.idempotency_key is not None
