"""A task of the sandbox: its request, its states and its callbacks."""

import asyncio
from dataclasses import dataclass, field

from homing.sandbox.outgoing_callback import Delivery
from homing.sandbox.products import PRODUCTS, Entry, Product
from homing.sandbox.submission import Submission

SUBMITTED = "submitted"
PROCESSING = "processing"
SUCCEED = "succeed"
FAILED = "failed"
FINALS = (SUCCEED, FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of a task from one time on (ms). `results` are the URLs of the files, in the order of the entries."""

    status: str
    updated_at: int
    message: str = ""
    results: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        return self.status in FINALS


@dataclass(slots=True, kw_only=True)
class Task:
    """The real state of one task.

    `fate` is the status that it ends with after `run_time` unless a test steers it. `turn` keeps its callbacks in
    order: the first attempt of one ends before that of the next one starts.
    """

    index: int
    id: str
    submission: Submission
    account: str
    origin: str
    created_at: int
    fate: str
    run_time: float
    held: bool = False
    states: list[State] = field(default_factory=list)
    callbacks: list[Delivery] = field(default_factory=list)
    queries: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def external_id(self) -> str | None:
        return self.submission.external_id

    @property
    def slots(self) -> int:
        """The slots that the task takes. Documented: as many as pictures, from `submitted` until its end."""
        return 0 if self.state.final else self.submission.slots

    @property
    def units(self) -> float:
        """The price of a success in resource units. A failure is free (reported, not documented)."""
        return self.submission.slots * self.product.units

    @property
    def product(self) -> Product:
        return PRODUCTS[self.submission.kind]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of the task's result."""
        return self.submission.slots * self.product.entries if self.product.counts else self.product.entries
