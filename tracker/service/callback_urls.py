"""Task callback URLs, and the shared callback URLs that an operator creates."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from tracker.errors import InvalidRequest, NotFound
from tracker.model.clock import RandomBytes
from tracker.model.records import SharedCallbackUrl
from tracker.model.task import ClientIdentity, Task
from tracker.rules import callback_tokens
from tracker.storage.store import Store

GENERATED: Final = "callback"


class CallbackUrls:
    """Makes and verifies callback URLs below one public URL. Without one, Homing cannot request callbacks."""

    def __init__(
        self,
        *,
        store: Store,
        public_url: str | None,
        secrets: Sequence[bytes],
        clock: Callable[[], datetime],
        random_bytes: RandomBytes,
    ) -> None:
        self._store = store
        self._public_url = public_url
        self._secrets = tuple(secrets)
        self._generates = not secrets
        self._clock = clock
        self._random_bytes = random_bytes

    @property
    def available(self) -> bool:
        """Return whether Homing can request callbacks."""
        return self._public_url is not None

    async def open(self) -> None:
        """Load the secret from the database if the operator set none. Call it again after a restore."""
        if self._generates:
            fresh = self._random_bytes(callback_tokens.SECRET_BYTES)
            self._secrets = (await self._store.secrets.get(GENERATED, fresh),)

    def of_task(self, task: Task) -> str | None:
        """Return the task callback URL, or None without a public URL."""
        if self._public_url is None:
            return None
        token = callback_tokens.mint(self._secrets, provider=task.provider, task_id=task.id)
        return callback_tokens.callback_url(self._public_url, provider=task.provider, token=token)

    def task_of(self, provider: str, token: str) -> str | None:
        """Return the task ID of a valid token, or None."""
        return callback_tokens.check(token, self._secrets, provider=provider)

    def task_at(self, provider: str, url: str) -> str | None:
        """Return the task ID of a task callback URL, below whatever public URL, or None."""
        _, found, token = url.rpartition(f"/callbacks/{provider}/")
        return self.task_of(provider, token) if found else None

    async def shared_url(self, provider: str, token: str) -> SharedCallbackUrl | None:
        """Return the shared callback URL of a token, or None if there is none or it is revoked."""
        if not token.startswith(callback_tokens.SHARED_PREFIX):
            return None
        return await self._store.callback_urls.find(provider, callback_tokens.shared_hash(token))

    async def create(
        self, client: ClientIdentity, *, provider: str, kind: str | None, label: str
    ) -> tuple[SharedCallbackUrl, str]:
        """Create a shared callback URL. The URL with its token is returned only once."""
        if self._public_url is None:
            raise InvalidRequest("there is no public URL. Set HOMING_PUBLIC_URL")
        token = callback_tokens.shared_token(self._random_bytes(callback_tokens.SHARED_BYTES))
        shared = SharedCallbackUrl(
            id=0,
            provider=provider,
            kind=kind,
            client=client.name,
            created_at=self._clock(),
            revoked_at=None,
            label=label,
        )
        kept = await self._store.callback_urls.add(shared, callback_tokens.shared_hash(token))
        return kept, callback_tokens.callback_url(self._public_url, provider=provider, token=token)

    async def every(self) -> Sequence[SharedCallbackUrl]:
        """Return all shared callback URLs, revoked ones too."""
        return await self._store.callback_urls.all()

    async def revoke(self, url_id: int, *, by: str) -> SharedCallbackUrl:
        """Revoke a shared callback URL. Later requests to it get 404. Raises NotFound."""
        shared = await self._store.callback_urls.revoke(url_id, by=by, now=self._clock())
        if shared is None:
            raise NotFound(f"no callback URL {url_id}")
        return shared
