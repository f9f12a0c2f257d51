"""What a receiver is configured with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from receiver.providers import kling, verifiers
from tracker.errors import SettingsError

_COUNTS: Final = (
    *("body_limit", "body_room", "unsigned_kept", "commits"),
    *("unverified_rate", "token_rate", "shared_rate", "counted_addresses"),
)


class CallbackSettings(Protocol):
    """The part of the process's settings that the receiver needs."""

    @property
    def kling_webhook_secrets(self) -> tuple[str, ...]: ...

    @property
    def public_url(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings:
    """Settings of one receiver; checked when made (SettingsError, which never shows a secret).

    ``webhook_secrets`` are each provider's live signature secrets as its console shows them, in any order.
    ``prefix`` is the path of the public URL, which a proxy may leave in front of ``/callbacks``.
    ``body_room`` is how many bytes of large bodies may be arriving at once, ``body_timeout`` is for the whole body.
    What no signature proves is bounded: ``unsigned_kept`` is how many bytes of such a body are stored;
    ``unverified_rate``, ``token_rate`` and ``shared_rate`` are how many such callbacks are kept a minute: for one
    task's address, for one where no signature is expected, and for one standing address (which serves many tasks);
    ``counted_addresses`` is how many addresses are counted at once. ``commits`` is how many callbacks may wait for
    their commit, ``commit_timeout`` how long one does before it is answered 503 (the commit itself goes on).
    """

    webhook_secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    prefix: str = ""
    body_limit: int = 1024 * 1024
    body_room: int = 64 * 1024 * 1024
    body_timeout: timedelta = timedelta(seconds=10)
    unsigned_kept: int = 4 * 1024
    unverified_rate: int = 30
    token_rate: int = 120
    shared_rate: int = 600
    counted_addresses: int = 10_000
    commits: int = 4096
    commit_timeout: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1")
        for name in ("body_timeout", "commit_timeout"):
            if getattr(self, name) <= timedelta(0):
                raise SettingsError(f"{name} must be longer than nothing")
        verifiers(self.webhook_secrets)

    @classmethod
    def from_settings(cls, settings: CallbackSettings) -> Self:
        """Take what concerns the receiver from the process's settings."""
        prefix = unquote(urlsplit(settings.public_url or "").path).rstrip("/")
        return cls(webhook_secrets={kling.NAME: settings.kling_webhook_secrets}, prefix=prefix)
