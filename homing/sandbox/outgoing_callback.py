"""A callback before and after it is sent: its body, its URL, its signature and its outcome."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from homing.sandbox.signing import Seal

Kind = Literal[
    "genuine",
    "late",
    "duplicate",
    "out_of_order",
    "contradictory",
    "unsigned",
    "unknown_status",
    "empty_result",
    "forged",
    "replayed",
    "steered",
    "lost",
]
"""The kind of a callback. A `lost` one is recorded and never sent. A test requested a `steered` one."""

FORGED_KINDS: frozenset[Kind] = frozenset({"forged", "replayed"})
"""Kinds that the provider did not send."""

DeliveryState = Literal["waiting", "delivered", "refused", "unsent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCallback:
    """One callback to be sent.

    `about` is the task in the body. A replay goes to the callback URL of another task. `headers`, if set, are sent
    unchanged (a replay copies them). Otherwise each attempt signs the callback again.
    """

    kind: Kind
    about: str
    target: str
    status: str
    body: bytes
    webhook_id: str
    seal: Seal = "genuine"
    variant: str = ""
    headers: Mapping[str, str] | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One HTTP request: its time (ms), and the status of the answer or the name of the error."""

    at: int
    answer: int | None = None
    error: str | None = None

    @property
    def accepted(self) -> bool:
        return self.answer is not None and self.answer // 100 == 2  # noqa: PLR2004 - any 2xx


@dataclass(slots=True, kw_only=True)
class Delivery:
    """A callback and its outcome. `sent_headers` are those of the first attempt."""

    callback: OutgoingCallback
    state: DeliveryState = "waiting"
    attempts: list[Attempt] = field(default_factory=list)
    sent_headers: dict[str, str] = field(default_factory=dict)


def webhook_id(task_id: str, occasion: str) -> str:
    """Return a number of 19 digits as text, like the documented example. The same occasion gives the same number."""
    digest = hashlib.sha256(f"{task_id}/{occasion}".encode()).digest()
    return str(10**18 + int.from_bytes(digest[:7]))
