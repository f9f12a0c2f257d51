"""External ids that a restored database makes again: a keyed hash over whose task it is and what is wanted.

Where a client names its submit, the provider gets an id that follows from that name. If the database comes back from a
backup, and the client sends the same again, the provider gets the same id and refuses it: the task that was forgotten
is found instead of made and charged again. The key is a secret of this installation, kept in the database and therefore
part of every backup, so that two installations at one account never meet.
"""

import hashlib
import hmac
import json
import secrets
from typing import Final

from tracker.model.clock import RandomBytes
from tracker.model.task import Task, crockford
from tracker.storage.store import Store

SECRET: Final = "external ids"  # noqa: S105 - the name under which the secret is kept
SECRET_BYTES: Final = 32


class ExternalIds:
    """The external IDs that a provider gets, by generation: 0, and one more for each deliberate repeat of a submit."""

    def __init__(self, store: Store, *, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self._store = store
        self._random_bytes = random_bytes

    async def open(self) -> None:
        """Make the secret of this installation where there is none, so that every backup has it."""
        await self._secret()

    async def of(self, task: Task, generation: int) -> str:
        """Return the external id of a named submit: letters and digits, 28 of them, as task ids have."""
        return external_id(await self._secret(), task, generation)

    async def first_generation(self, task: Task) -> int:
        """Return the generation of a submit whose name no row has: later than those of rows that retention deleted."""
        forgotten = await self._store.retention.deleted_task(task.provider, task.account, await self.of(task, 0))
        return 0 if forgotten is None else await self.next_generation(task, 1)

    async def next_generation(self, task: Task, generation: int) -> int:
        """Return a generation from ``generation`` on whose id no row has and no deleted row had.

        Generations are used one after another, so the search doubles its steps: a name that was refused ten thousand
        times costs a few dozen ids.
        """
        used, step = generation - 1, 1
        while await self._is_used(task, generation):
            used, generation, step = generation, generation + step, step * 2
        while generation - used > 1:
            middle = (used + generation) // 2
            if await self._is_used(task, middle):
                used = middle
            else:
                generation = middle
        return generation

    async def _is_used(self, task: Task, generation: int) -> bool:
        return await self._store.tasks.sent_id_used(task.provider, task.account, await self.of(task, generation))

    async def _secret(self) -> bytes:
        return await self._store.secrets.get(SECRET, self._random_bytes(SECRET_BYTES))


def external_id(secret: bytes, task: Task, generation: int) -> str:
    """Hash a submit into an external ID: all that makes two submits differ; it cannot be read back."""
    parts = (
        *(task.provider, task.account, task.kind, task.client),
        *(task.external_id, task.idempotency_key, task.request_hash),
        generation,
    )
    digest = hmac.digest(secret, json.dumps(parts).encode(), hashlib.sha256)
    return "hm" + crockford(int.from_bytes(digest[:16], "big"))
