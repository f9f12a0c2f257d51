"""Tests of the request budget: loops and clients never use each other's share."""

from datetime import datetime, timedelta

import pytest

from tests.support.builders import NOW
from tracker.errors import HomingError, Overloaded, TooMany
from tracker.service.budget import Budget, Budgets

MINUTE = timedelta(minutes=1)


def taken(budget: Budget, client: str, *, at: datetime = NOW) -> int:
    """Take requests for a client until one is refused. Return the number of granted requests."""
    for count in range(1000):
        try:
            budget.take_for(client, at)
        except HomingError:
            return count
    raise AssertionError("never refused")


def test_polls_at_one_account_take_nothing_from_another() -> None:
    budgets = Budgets(["kling/default", "replicate/default"], 120, NOW, client_per_minute=10)
    budgets.follow(lambda: 0.5)
    one, other = budgets.of("replicate/default"), budgets.of("kling/default")
    while one.take(NOW) is None:
        pass

    assert (one.has(NOW), other.has(NOW), budgets.has(NOW), budgets.has_for_orphan(NOW)) == (False, True, True, True)
    assert sum(other.take(NOW) is None for _ in range(100)) == 15
    assert not budgets.has(NOW)


def test_clients_keep_their_share_of_the_budget() -> None:
    budget = Budget(120, NOW, client_per_minute=1000)
    while budget.take(NOW) is None:
        pass

    assert [taken(budget, client) for client in ("studio", "another")] == [30, 10]

    with pytest.raises(Overloaded) as refused:
        budget.take_for("other", NOW)
    wait = refused.value.retry_after
    assert wait == MINUTE / 40
    budget.take_for("other", NOW + wait)


def test_loops_do_not_use_requests_of_clients() -> None:
    budget = Budget(120, NOW, client_per_minute=1000)
    assert sum(taken(budget, client) for client in ("studio", "another")) == 40

    later = [NOW + timedelta(milliseconds=at) for at in range(0, 60_000, 50)]
    sent = sum(budget.take(now) is None for now in later)

    assert 108 <= sent <= 120 + 30 - 40, "a minute's worth and a quarter, without what clients took"


def test_lists_and_polls_beside_them_get_half_each() -> None:
    budget = Budget(120, NOW)
    pages = polls = 0
    for at in range(0, 60_000, 50):
        now = NOW + timedelta(milliseconds=at)
        # Whichever comes first takes nothing from the other.
        while budget.take_for_list(now) is None:
            pages += 1
        while budget.take(now, beside_lists=True) is None:
            polls += 1

    assert (pages, polls) == (74, 74), "half of a minute's worth and of its quarter each"
    assert not budget.has(now, beside_lists=True)


def test_polls_without_lists_use_the_whole_budget() -> None:
    budget = Budget(120, NOW)
    while budget.take_for_list(NOW) is None:
        pass

    assert sum(budget.take(NOW) is None for _ in range(100)) == 15
    wait = budget.take_for_list(NOW)
    assert wait == MINUTE / 60, "the share of lists is used up as well, and refills at half the rate"


def test_one_client_has_its_own_limit() -> None:
    budget = Budget(120, NOW, client_per_minute=10)

    assert taken(budget, "studio") == 10
    with pytest.raises(TooMany) as refused:
        budget.take_for("studio", NOW)

    assert refused.value.retry_after == MINUTE / 10
    assert "10 requests to the provider per minute" in refused.value.detail
    assert taken(budget, "other") == 10


@pytest.mark.parametrize(("per_minute", "share"), [(60, 1.0), (120, 0.5), (120, 0.25)])
def test_one_client_leaves_requests_for_others(per_minute: int, share: float) -> None:
    """This holds for any limit per client: the budget may be small, and replicas share it."""
    budget = Budget(per_minute, NOW, share=lambda: share, client_per_minute=30)
    sent = sum(taken(budget, "greedy", at=NOW + timedelta(seconds=second)) for second in range(0, 60, 5))

    budget.take_for("modest", NOW + MINUTE)
    assert sent > 0


def test_requests_are_taken_all_or_none() -> None:
    budget = Budget(120, NOW, client_per_minute=10)
    budget.take_for("studio", NOW, 4)

    with pytest.raises(TooMany) as refused:
        budget.take_for("studio", NOW, 7)
    wait = refused.value.retry_after
    assert wait == MINUTE / 10
    budget.take_for("studio", NOW + wait, 7)

    budget.take_for("other", NOW, 25)
    with pytest.raises(TooMany) as overdrawn:
        budget.take_for("other", NOW)
    assert overdrawn.value.retry_after == MINUTE / 10 * 16, "more than the bucket holds is paid back first"


def test_clock_set_back_takes_no_requests() -> None:
    budget = Budget(60, NOW, client_per_minute=10)
    taken(budget, "studio")

    back = NOW - timedelta(hours=5)
    with pytest.raises(TooMany):
        budget.take_for("studio", back)
    budget.take_for("studio", back + MINUTE)
