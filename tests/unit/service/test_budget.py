"""Requests to a provider: the loops and the clients never take each other's part."""

from datetime import datetime, timedelta

import pytest

from tests.support.builders import NOW
from tracker.errors import HomingError, Overloaded, TooMany
from tracker.service.budget import Budget

MINUTE = timedelta(minutes=1)


def taken(budget: Budget, client: str, *, at: datetime = NOW) -> int:
    """Take for a client until it is refused; return how often that went well."""
    for count in range(1000):
        try:
            budget.take_for(client, at)
        except HomingError:
            return count
    raise AssertionError("never refused")


def test_clients_have_their_part_while_the_loops_take_all() -> None:
    budget = Budget(120, NOW, client_per_minute=1000)
    while budget.take(NOW) is None:
        pass

    assert [taken(budget, client) for client in ("studio", "another")] == [30, 10]

    with pytest.raises(Overloaded) as refused:
        budget.take_for("other", NOW)
    wait = refused.value.retry_after
    assert wait == MINUTE / 40
    budget.take_for("other", NOW + wait)


def test_what_clients_take_is_not_sent_by_the_loops() -> None:
    budget = Budget(120, NOW, client_per_minute=1000)
    assert sum(taken(budget, client) for client in ("studio", "another")) == 40

    later = [NOW + timedelta(milliseconds=at) for at in range(0, 60_000, 50)]
    sent = sum(budget.take(now) is None for now in later)

    assert 108 <= sent <= 120 + 30 - 40, "a minute's worth and a quarter, without what clients took"


def test_one_client_has_its_own_bound() -> None:
    budget = Budget(120, NOW, client_per_minute=10)

    assert taken(budget, "studio") == 10
    with pytest.raises(TooMany) as refused:
        budget.take_for("studio", NOW)

    assert refused.value.retry_after == MINUTE / 10
    assert "10 requests to the provider a minute" in refused.value.detail
    assert taken(budget, "other") == 10


@pytest.mark.parametrize(("per_minute", "share"), [(60, 1.0), (120, 0.5), (120, 0.25)])
def test_one_client_leaves_requests_to_the_others(per_minute: int, share: float) -> None:
    """Whatever its own bound is: the budget may be small, and replicas share it."""
    budget = Budget(per_minute, NOW, share=lambda: share, client_per_minute=30)
    sent = sum(taken(budget, "greedy", at=NOW + timedelta(seconds=second)) for second in range(0, 60, 5))

    budget.take_for("modest", NOW + MINUTE)
    assert sent > 0


def test_many_requests_are_taken_whole_or_not_at_all() -> None:
    budget = Budget(120, NOW, client_per_minute=10)
    budget.take_for("studio", NOW, 4)

    with pytest.raises(TooMany) as refused:
        budget.take_for("studio", NOW, 7)
    wait = refused.value.retry_after
    assert wait == MINUTE / 10
    budget.take_for("studio", NOW + wait, 7)

    budget.take_for("other", NOW, 25)
    with pytest.raises(TooMany) as in_debt:
        budget.take_for("other", NOW)
    assert in_debt.value.retry_after == MINUTE / 10 * 16, "more than the bucket holds is paid back first"


def test_a_clock_that_is_set_back_takes_nothing() -> None:
    budget = Budget(60, NOW, client_per_minute=10)
    taken(budget, "studio")

    back = NOW - timedelta(hours=5)
    with pytest.raises(TooMany):
        budget.take_for("studio", back)
    budget.take_for("studio", back + MINUTE)
