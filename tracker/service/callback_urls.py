"""Callback addresses: each task's own, and the standing ones that an operator registers by hand."""

import secrets as random_secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from tracker.errors import InvalidRequest, NotFound
from tracker.model.records import SharedCallbackUrl
from tracker.model.task import ClientIdentity, Task
from tracker.rules import callback_tokens
from tracker.storage.store import Store

GENERATED: Final = "callback"


class Addresses:
    """Makes and recognises addresses below one public URL; without one, no callback can be asked for."""

    def __init__(
        self, *, store: Store, public_url: str | None, secrets: Sequence[bytes], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._public_url = public_url
        self._secrets = tuple(secrets)
        self._generates = not secrets
        self._clock = clock

    @property
    def asked(self) -> bool:
        """Return whether callbacks can be asked for."""
        return self._public_url is not None

    async def open(self) -> None:
        """Take the secret kept in the database where the operator set none; again after that was restored."""
        if self._generates:
            fresh = random_secrets.token_bytes(callback_tokens.SECRET_BYTES)
            self._secrets = (await self._store.secrets.get(GENERATED, fresh),)

    def of_task(self, task: Task) -> str | None:
        """Return a task's own address, or None without a public URL."""
        if self._public_url is None:
            return None
        token = callback_tokens.mint(self._secrets, provider=task.provider, task_id=task.id)
        return callback_tokens.address(self._public_url, provider=task.provider, token=token)

    def task_of(self, provider: str, token: str) -> str | None:
        """Return the task that a token proves, or None."""
        return callback_tokens.check(token, self._secrets, provider=provider)

    async def shared_url(self, provider: str, token: str) -> SharedCallbackUrl | None:
        """Return the live standing address of a token, or None."""
        if not token.startswith(callback_tokens.STANDING_PREFIX):
            return None
        return await self._store.callback_urls.find(provider, callback_tokens.standing_hash(token))

    async def create(
        self, caller: ClientIdentity, *, provider: str, kind: str | None, label: str
    ) -> tuple[SharedCallbackUrl, str]:
        """Make a standing address; the URL is given this once and cannot be given again."""
        if self._public_url is None:
            raise InvalidRequest("there is no public address: set HOMING_PUBLIC_URL")
        token = callback_tokens.standing_token(random_secrets.token_bytes(callback_tokens.STANDING_BYTES))
        address = SharedCallbackUrl(
            id=0,
            provider=provider,
            kind=kind,
            client=caller.name,
            created_at=self._clock(),
            revoked_at=None,
            label=label,
        )
        kept = await self._store.callback_urls.add(address, callback_tokens.standing_hash(token))
        return kept, callback_tokens.address(self._public_url, provider=provider, token=token)

    async def every(self) -> Sequence[SharedCallbackUrl]:
        """Return all standing addresses, the revoked ones too."""
        return await self._store.callback_urls.all()

    async def revoke(self, address_id: int, *, by: str) -> SharedCallbackUrl:
        """Revoke a standing address; what comes there afterwards is answered 404. Raises NotFound."""
        address = await self._store.callback_urls.revoke(address_id, by=by, now=self._clock())
        if address is None:
            raise NotFound(f"no callback address {address_id}")
        return address
