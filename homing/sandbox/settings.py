"""The settings of a sandbox."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from homing.sandbox.faults import UnknownFaultError, checked_rates

CallbackShape = Literal["legacy", "new", "enveloped"]
SECRET_PREFIX = "whsec_"  # noqa: S105 - the documented prefix, not a secret

MAX_SIGMA = 5
MIN_ACCESS_SECRET = 32  # in bytes; RFC 7518 section 3.2: an HS256 key is at least as long as its hash


class SandboxSettingsError(ValueError):
    """A setting is invalid. The message names it and says what is valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Settings of one sandbox. Durations are seconds.

    `run_time` is the median and `run_time_sigma` the sigma of a lognormal distribution. With sigma 0, each task takes
    the median. The default median is the one live observation of an image. `held` tasks stay `submitted` until they are
    steered. `slots` are the concurrency slots of the account (an image task takes `n`); None is no limit. A `reseller`
    ignores external IDs and has no `/tasks`. For `not_found_lag` seconds after its creation, no query finds a task.
    `callback_attempts` and `callback_backoff` (the first pause, doubled each time) are assumptions, because Kling
    publishes no retry policy.
    """

    seed: int = 1
    api_keys: tuple[str, ...] = ("sandbox-api-key",)
    access_keys: Mapping[str, str] = field(default_factory=dict)
    webhook_secrets: tuple[str, ...] = ()
    callback_shape: CallbackShape = "legacy"
    callbacks: bool = True
    intermediate: bool = True
    faults: Mapping[str, float] = field(default_factory=dict)
    run_time: float = 24.0
    run_time_sigma: float = 0.3
    failure_rate: float = 0.0
    held: bool = False
    slots: int | None = None
    reseller: bool = False
    not_found_lag: float = 0.0
    slow_by: float = 3.0
    late_by: float = 5.0
    hang_for: float = 60.0
    drip_pause: float = 0.02
    callback_timeout: float = 5.0
    callback_attempts: int = 3
    callback_backoff: float = 0.5
    callback_workers: int = 32
    max_pending_callbacks: int = 10_000
    max_tasks: int = 100_000
    max_body: int = 160 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.api_keys and not self.access_keys:
            raise SandboxSettingsError("a sandbox needs at least one API key or access key")
        if self.callback_shape not in get_args(CallbackShape):
            raise SandboxSettingsError(f"callback_shape must be one of {', '.join(get_args(CallbackShape))}")
        for secret in self.webhook_secrets:
            _check_secret(secret)
        try:
            checked_rates(self.faults)
        except UnknownFaultError as error:
            raise SandboxSettingsError(str(error)) from error
        if any(len(secret.encode()) < MIN_ACCESS_SECRET for secret in self.access_keys.values()):
            raise SandboxSettingsError(f"the secret of an access key must have at least {MIN_ACCESS_SECRET} bytes")
        if not 0 <= self.failure_rate <= 1:
            raise SandboxSettingsError("failure_rate must be from 0 to 1")
        self._check_numbers()

    def _check_numbers(self) -> None:
        durations = ("run_time", "run_time_sigma", "not_found_lag", "slow_by", "late_by", "hang_for", "drip_pause")
        for name in (*durations, "callback_timeout", "callback_backoff"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SandboxSettingsError(f"{name} must be a finite number of seconds, 0 or more")
        if self.run_time_sigma > MAX_SIGMA:
            raise SandboxSettingsError(f"run_time_sigma must be at most {MAX_SIGMA}")
        for name in ("callback_attempts", "callback_workers", "max_pending_callbacks", "max_tasks", "max_body"):
            if getattr(self, name) < 1:
                raise SandboxSettingsError(f"{name} must be 1 or more")
        if self.slots is not None and self.slots < 1:
            raise SandboxSettingsError("slots must be 1 or more. Leave it out for no limit")


def _check_secret(secret: str) -> None:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not key:
        raise SandboxSettingsError(f"a webhook secret must be {SECRET_PREFIX} followed by Base64")
