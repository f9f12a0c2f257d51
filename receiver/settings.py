"""The receiver's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from receiver.providers import verifiers
from tracker.errors import SettingsError

_COUNTS: Final = (
    *("body_limit", "body_capacity", "unsigned_kept", "commits"),
    *("unverified_rate", "token_rate", "shared_rate", "counted_urls"),
)


class CallbackSettings(Protocol):
    """The part of the process's settings that the receiver needs."""

    @property
    def webhook_secrets(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def public_url(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings:
    """Settings of one receiver, checked on creation. Raises SettingsError, which never shows a secret.

    - ``webhook_secrets``: the live signature secrets of each provider, as its console shows them, in any order.
    - ``prefix``: the path of the public URL. A proxy may leave it in front of ``/callbacks``.
    - ``body_capacity``: the bytes of large bodies that may be arriving at once. ``body_timeout``: for the whole body.
    - ``unsigned_kept``: the bytes that Homing stores of an unsigned body.
    - ``unverified_rate``: unsigned callbacks per minute for one task callback URL, if a signature is expected.
    - ``token_rate``: the same, if no signature is expected. ``shared_rate``: the same for one shared callback URL.
    - ``counted_urls``: the number of URLs that have a rate limit at once.
    - ``commits``: the callbacks that may wait for their commit. ``commit_timeout``: after it the answer is 503, and
      the commit continues.
    """

    webhook_secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    prefix: str = ""
    body_limit: int = 1024 * 1024
    body_capacity: int = 64 * 1024 * 1024
    body_timeout: timedelta = timedelta(seconds=10)
    unsigned_kept: int = 4 * 1024
    unverified_rate: int = 30
    token_rate: int = 120
    shared_rate: int = 600
    counted_urls: int = 10_000
    commits: int = 4096
    commit_timeout: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1")
        for name in ("body_timeout", "commit_timeout"):
            if getattr(self, name) <= timedelta(0):
                raise SettingsError(f"{name} must be longer than 0 s")
        verifiers(self.webhook_secrets)

    @classmethod
    def from_settings(cls, settings: CallbackSettings) -> Self:
        """Create the receiver's settings from the settings of the process."""
        prefix = unquote(urlsplit(settings.public_url or "").path).rstrip("/")
        return cls(webhook_secrets=settings.webhook_secrets, prefix=prefix)
