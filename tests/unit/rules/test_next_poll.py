"""When the plain rule polls next, for a few run times that are easy to follow."""

import pytest

from tracker.rules.next_poll import next_poll_age

HUNDRED = [float(second) for second in range(1, 101)]


def test_first_poll_without_callbacks_leaves_a_fixed_share_running() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=0) == 35


def test_next_poll_leaves_the_same_share_of_those_that_ran_as_long() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=35) == 58
    assert next_poll_age(HUNDRED, lost=1, age=58) == 73


@pytest.mark.parametrize(("lost", "first"), [(0.01, 99), (0.1, 85), (0.2, 70)])
def test_first_poll_is_later_when_fewer_callbacks_are_lost(lost: float, first: float) -> None:
    assert next_poll_age(HUNDRED, lost=lost, age=0) == first


def test_next_poll_is_unknown_beyond_the_longest_run() -> None:
    assert next_poll_age(HUNDRED, lost=1, age=100) is None
    assert next_poll_age((), lost=1, age=0) is None


def test_first_poll_does_not_wait_for_a_few_very_long_runs() -> None:
    assert next_poll_age([10.0] * 98 + [1000.0] * 2, lost=0.01, age=0) == pytest.approx(3 * 29.8)


def test_next_poll_between_two_modes_comes_when_the_age_doubles() -> None:
    modes = [10.0 + second / 10 for second in range(50)] + [90.0] * 50

    assert next_poll_age(modes, lost=1, age=14) == 28
    assert next_poll_age(modes, lost=1, age=56) == 90


def test_next_poll_is_not_close_when_runs_hardly_differ() -> None:
    assert next_poll_age([100 + second / 100 for second in range(100)], lost=1, age=100.4) == pytest.approx(110.44)
