"""Whole histories of Homing from one seed each; see ``history``. Run more of them with ``make simulate``."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.history import plan_for, run_history

SEEDS = range(40)
NIGHTLY_SEEDS = 1_000


@pytest.mark.parametrize("seed", SEEDS)
def test_history_breaks_no_guarantee(seed: int) -> None:
    ended = run_history(plan_for(seed))

    assert ended.violations == ()


def test_equal_seeds_give_equal_traces() -> None:
    first, second = (run_history(plan_for(7)) for _ in range(2))

    assert first.trace == second.trace


def test_equal_seeds_give_equal_traces_in_any_process() -> None:
    command = (
        *(sys.executable, "-m", "tests.simulation", "--first", "7"),
        *("--seeds", "1", "--covered", "0", "--trace"),
    )
    ran = subprocess.run(
        command,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    trace = run_history(plan_for(7)).trace
    assert ran.stdout.splitlines()[: len(trace)] == list(trace)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_fresh_histories_break_no_guarantee() -> None:
    begin = time.time_ns() // 1_000_000_000
    for seed in range(begin, begin + NIGHTLY_SEEDS):
        ended = run_history(plan_for(seed))

        assert ended.violations == (), f"python -m tests.simulation --first {seed} --seeds 1"
