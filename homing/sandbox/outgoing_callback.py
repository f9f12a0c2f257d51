"""A callback before and after it is sent: what it says, where it goes, how it is signed, what came of it."""

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
"""Why the callback looks as it does; `lost` ones are written down and never sent, `steered` ones a test asked for."""

FORGED_KINDS: frozenset[Kind] = frozenset({"forged", "replayed"})
"""Kinds that the provider did not send."""

DeliveryState = Literal["waiting", "delivered", "refused", "unsent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCallback:
    """One callback to be sent.

    `about` is the task whose body it is, which for a replay is not the task whose address it goes to. `headers`, where
    given, are sent as they are (a replay copies them); otherwise the letter is sealed anew at each attempt.
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
    """One HTTP request: when (ms), and the answer's status or the name of what prevented one."""

    at: int
    answer: int | None = None
    error: str | None = None

    @property
    def accepted(self) -> bool:
        return self.answer is not None and self.answer // 100 == 2  # noqa: PLR2004 - any 2xx


@dataclass(slots=True, kw_only=True)
class Delivery:
    """A letter and what came of it. `sent_headers` are those of the first attempt."""

    callback: OutgoingCallback
    state: DeliveryState = "waiting"
    attempts: list[Attempt] = field(default_factory=list)
    sent_headers: dict[str, str] = field(default_factory=dict)


def webhook_id(task_id: str, occasion: str) -> str:
    """Return a number of 19 digits as text, like the documented example; the same for the same occasion."""
    digest = hashlib.sha256(f"{task_id}/{occasion}".encode()).digest()
    return str(10**18 + int.from_bytes(digest[:7]))
