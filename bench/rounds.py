"""Rounds: in each round every subject has its turn, because the speed of a machine changes within minutes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.load import Outcome
from bench.subjects import Subject

WARM_UP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """The number of rounds, and the seconds of each turn."""

    rounds: int = 5
    seconds: float = 4.0

    def callbacks(self, per_second: int) -> int:
        """Return the most callbacks that a subject can answer in all rounds."""
        return int(per_second * (self.rounds * self.seconds + WARM_UP_SECONDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: a number of connections to a subject."""

    subject: Subject
    connections: int


def in_turns(turns: Sequence[Turn], effort: Effort) -> list[list[Outcome]]:
    """Warm up each turn, then run all turns in every round. Return the outcomes of each turn, in order.

    At the end the database of every subject is verified.
    """
    for turn in turns:
        turn.subject.send(connections=turn.connections, seconds=WARM_UP_SECONDS)
    outcomes: list[list[Outcome]] = [[] for _ in turns]
    for number in range(effort.rounds):
        for turn, results in zip(turns, outcomes, strict=True):
            outcome = turn.subject.send(connections=turn.connections, seconds=effort.seconds)
            results.append(outcome)
            say(
                f"round {number + 1}: {turn.subject.name} at {turn.connections} connections: "
                f"{outcome.per_second:,.0f}/s, p50 {outcome.p50_ms:.2f} ms, p99 {outcome.p99_ms:.2f} ms"
            )
    for subject in {id(turn.subject): turn.subject for turn in turns}.values():
        subject.verify()
    return outcomes


def say(line: str) -> None:
    """Print progress on the error stream."""
    sys.stderr.write(f"  {line}\n")
    sys.stderr.flush()
