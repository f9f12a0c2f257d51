"""Whole histories of Homing from one seed each; see ``history``. Run more of them with ``make simulate``."""

import time

import pytest

from tests.simulation.history import plan_for, run_history

SEEDS = range(24)
NIGHTLY_SEEDS = 1_000


@pytest.mark.parametrize("seed", SEEDS)
def test_history_breaks_no_guarantee(seed: int) -> None:
    ended = run_history(plan_for(seed))

    assert ended.violations == ()


def test_equal_seeds_give_equal_traces() -> None:
    first, second = (run_history(plan_for(7)) for _ in range(2))

    assert first.trace == second.trace


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_fresh_histories_break_no_guarantee() -> None:
    begin = time.time_ns() // 1_000_000_000
    for seed in range(begin, begin + NIGHTLY_SEEDS):
        ended = run_history(plan_for(seed))

        assert ended.violations == (), f"python -m tests.simulation --first {seed} --seeds 1"
