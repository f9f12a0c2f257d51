"""Make a failing history shorter: leave out parts as long as the same guarantee is still broken."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from tests.simulation.history import Ended, run_history
from tests.simulation.world import Plan

T = TypeVar("T")


def shrunk(ended: Ended, *, runs: int = 60, note: Callable[[str], None] = lambda _: None) -> Ended:
    """Return the shortest history that was found within so many runs; the first violation's invariant decides."""
    invariant, left = ended.violations[0].invariant, runs
    again = True
    while again and left > 0:
        again = False
        for plan in shorter(ended.plan):
            if left == 0:
                break
            left -= 1
            tried = run_history(plan)
            if any(violation.invariant == invariant for violation in tried.violations):
                ended, again = tried, True
                note(f"shrunk to {outline(plan)}")
                break
    return ended


def shorter(plan: Plan) -> Iterator[Plan]:
    """Yield plans with less in them, those that leave out most first."""
    rates = {fault: rate for fault, rate in plan.rates.items() if rate > 0}
    yield from _without(plan, "orders", plan.orders)
    yield from _without(plan, "incidents", plan.incidents)
    yield from _without(plan, "interventions", plan.interventions)
    names = tuple(rates)
    for some in _parts(names):
        yield replace(plan, rates={fault: rate for fault, rate in rates.items() if fault not in some})


def outline(plan: Plan) -> str:
    """Describe a history in one line."""
    rates = {fault: rate for fault, rate in plan.rates.items() if rate > 0}
    return (
        f"seed {plan.seed}: orders {list(plan.orders)}, incidents {list(plan.incidents)}, "
        f"interventions {list(plan.interventions)}, faults {rates}"
    )


def _without(plan: Plan, name: str, numbers: tuple[int, ...]) -> Iterator[Plan]:
    for some in _parts(numbers):
        if name == "orders" and len(some) == len(numbers):
            continue
        left: dict[str, Any] = {name: tuple(each for each in numbers if each not in some)}
        yield replace(plan, **left)


def _parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """Yield halves, quarters and so on down to single items."""
    size = (len(items) + 1) // 2
    while size:
        for start in range(0, len(items), size):
            yield items[start : start + size]
        size = size // 2
