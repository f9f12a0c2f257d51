"""Tests of the next-poll rule with simple run times."""

import pytest

from tracker.rules.next_poll import next_poll_age

HUNDRED = [float(second) for second in range(1, 101)]


def test_first_poll_without_callbacks_uses_fixed_share() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=0) == 35


def test_next_poll_uses_the_same_share() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=35) == 58
    assert next_poll_age(HUNDRED, lost=1, age=58) == 73


@pytest.mark.parametrize(("lost", "first"), [(0.01, 99), (0.1, 85), (0.2, 70)])
def test_first_poll_with_fewer_losses_is_later(lost: float, first: float) -> None:
    assert next_poll_age(HUNDRED, lost=lost, age=0) == first


def test_next_poll_beyond_longest_run_is_unknown() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=100) is None
    assert next_poll_age((), lost=1, age=0) is None


def test_first_poll_does_not_wait_for_outliers() -> None:
    assert next_poll_age([10.0] * 98 + [1000.0] * 2, lost=0.01, age=0) == pytest.approx(3 * 29.8)


def test_next_poll_between_modes_doubles_the_age() -> None:
    modes = [10.0 + second / 10 for second in range(50)] + [90.0] * 50

    assert next_poll_age(modes, lost=1, age=14) == 28
    assert next_poll_age(modes, lost=1, age=56) == 90


def test_next_poll_of_similar_runs_keeps_distance() -> None:
    assert next_poll_age([100 + second / 100 for second in range(100)], lost=1, age=100.4) == pytest.approx(110.44)
