"""External IDs that Homing can derive again after a restore: a keyed hash of the client and of the request.

If a client names its submission, Homing derives the provider's external ID from that name. After a restore from a
backup, the client may send the same request again. The provider then gets the same ID and refuses it. Homing finds the
forgotten task, instead of creating it and paying for it again. The key is a secret of this installation. It is in the
database and therefore in every backup. So two installations that share an account never derive equal IDs.
"""

import hashlib
import hmac
import json
from typing import Final

from tracker.model.clock import RandomBytes
from tracker.model.task import Task, crockford
from tracker.storage.store import Store

SECRET: Final = "external ids"  # noqa: S105 - the name under which the secret is kept
SECRET_BYTES: Final = 32


class ExternalIds:
    """External IDs for the provider.

    The generation starts at 0. It grows if a name is submitted again after a manual resolution or after its row was
    deleted. A refusal that made no task leaves it as it is.
    """

    def __init__(self, store: Store, *, random_bytes: RandomBytes) -> None:
        self._store = store
        self._random_bytes = random_bytes

    async def open(self) -> None:
        """Create the secret of this installation if it does not exist, so that every backup has it."""
        await self._secret()

    async def of(self, task: Task, generation: int) -> str:
        """Return the external ID of a named submission: 28 letters and digits, as in task IDs."""
        return external_id(await self._secret(), task, generation)

    async def first_generation(self, task: Task) -> int:
        """Return the generation of a submission whose name no row has.

        It is later than the generations of rows that retention deleted.
        """
        forgotten = await self._store.retention.deleted_task(task.provider, task.account, await self.of(task, 0))
        return 0 if forgotten is None else await self.next_generation(task, 1)

    async def next_generation(self, task: Task, generation: int) -> int:
        """Return a generation from ``generation`` on. No row has its external ID, and no deleted row had it.

        Generations are used in sequence, so the search doubles its steps. A name that was used ten thousand times costs
        a few dozen IDs.
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
    """Hash everything that distinguishes two submissions into an external ID. The hash cannot be reversed."""
    parts = (
        *(task.provider, task.account, task.kind, task.client),
        *(task.external_id, task.idempotency_key, task.request_hash),
        generation,
    )
    digest = hmac.digest(secret, json.dumps(parts).encode(), hashlib.sha256)
    return "hm" + crockford(int.from_bytes(digest[:16], "big"))
