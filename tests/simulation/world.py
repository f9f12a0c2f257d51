"""The world of one simulated history: its clocks, its chances and its record of what happened, all from one seed."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

from tests.simulation.virtual_loop import VirtualLoop

T = TypeVar("T")

BEGIN: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
# What one piece of work takes in a thread, at least and at most.
THREAD_SECONDS: Final = (0.0002, 0.004)
SCALE: Final = 2.0**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a history consists of. A shorter history with the same seed keeps most chances of what is left.

    ``rates`` are the probabilities of the faults by name; ``orders`` the numbers of the clients' orders; ``incidents``
    the numbers of the troubles of the environment; ``interventions`` those of the operators' actions.
    """

    seed: int
    rates: dict[str, float]
    orders: tuple[int, ...]
    incidents: tuple[int, ...]
    interventions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A file that was lost: an older one took its place. All times are the loop's.

    The older one has what was there at ``taken_at``. Nothing was written to the lost one after ``deleted_at``. Nothing
    of it was in the memory of a process after ``over_at``. A ``foreign`` one was new, with secrets of its own.
    """

    taken_at: float
    deleted_at: float
    over_at: float
    foreign: bool = False


@dataclass(slots=True)
class World:
    """One history. Its seed and a name give everything random, so that removing a part changes little else."""

    plan: Plan
    loop: VirtualLoop = field(init=False)
    # How far the wall clock was set.
    clock_offset: timedelta = timedelta()
    # After this moment of the loop nothing fails any more.
    faultless: bool = False
    faults: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    # Answers with status 500, and processes that ended by themselves.
    internal_errors: list[str] = field(default_factory=list)
    # The hosts that answered 410.
    gone: set[str] = field(default_factory=set)
    forgotten: list[Forgotten] = field(default_factory=list)
    _drawn: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        delays = Random(f"{self.plan.seed}/threads")
        self.loop = VirtualLoop(lambda: delays.uniform(*THREAD_SECONDS))

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as part of the world: it goes on if the process that caused it is killed."""
        return self.loop.create_task(coroutine, context=Context())

    def clock(self) -> datetime:
        """Return the time of the wall clock, which incidents set."""
        return BEGIN + timedelta(seconds=self.loop.time()) + self.clock_offset

    def true_time(self) -> datetime:
        """Return the time at the provider, whose clock is right."""
        return BEGIN + timedelta(seconds=self.loop.time())

    def monotonic(self) -> float:
        return self.loop.time()

    def chance(self, name: str) -> float:
        """Return the next number in [0, 1) of this name."""
        self._drawn[name] += 1
        text = f"{self.plan.seed}/{name}/{self._drawn[name]}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / SCALE

    def between(self, name: str, least: float, most: float) -> float:
        return least + (most - least) * self.chance(name)

    def choice(self, name: str, options: Sequence[T]) -> T:
        return options[int(self.chance(name) * len(options))]

    def strikes(self, fault: str, about: str) -> bool:
        """Return whether a fault happens now; count it and note it in the trace."""
        if self.faultless or self.chance(f"{fault} {about}") >= self.plan.rates.get(fault, 0.0):
            return False
        self.note_fault(fault, about)
        return True

    def note_fault(self, fault: str, about: str) -> None:
        self.faults[fault] += 1
        self.note(f"FAULT {fault}: {about}")

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():10.4f} {text}")

    def random_bytes(self, name: str) -> "RandomBytes":
        return RandomBytes(f"{self.plan.seed}/{name}")


class RandomBytes:
    """A source of bytes for one process: ``secrets.token_bytes`` that can be repeated."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def __call__(self, size: int) -> bytes:
        return self._random.randbytes(size)
