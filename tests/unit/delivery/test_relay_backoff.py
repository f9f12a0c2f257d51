"""When the relay retries a delivery, probes an endpoint, and dead-letters a delivery."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOW
from tracker.delivery import backoff

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
chances = st.floats(0, 1, exclude_max=True)
waits = st.timedeltas(timedelta(days=-1), timedelta(days=30))


@given(attempts=st.integers(1, 10_000), chance=chances)
def test_retry_wait_is_random_up_to_doubling_limit(attempts: int, chance: float) -> None:
    most = min(SECOND * 2 ** min(attempts - 1, 20), HOUR)
    wait = backoff.retry_in(attempts, chance=chance)
    assert timedelta() <= wait <= most
    assert backoff.retry_in(attempts, chance=0) == timedelta()
    assert backoff.retry_in(attempts, chance=0.5) == most / 2


@given(attempts=st.integers(1, 100), chance=chances, retry_after=waits)
def test_retry_wait_honors_retry_after_up_to_an_hour(attempts: int, chance: float, retry_after: timedelta) -> None:
    for wait in (
        backoff.retry_in(attempts, chance=chance, retry_after=retry_after),
        backoff.probe_in(attempts, chance=chance, retry_after=retry_after),
    ):
        assert min(retry_after, HOUR) <= wait <= HOUR


@given(chance=chances)
def test_probe_wait_grows_from_a_second_to_a_minute(chance: float) -> None:
    assert SECOND / 2 <= backoff.probe_in(1, chance=chance) <= SECOND
    assert 30 * SECOND <= backoff.probe_in(50, chance=chance) <= 60 * SECOND


@given(open_for=st.timedeltas(timedelta(), timedelta(days=9)), chance=chances)
def test_postponed_wait_is_at_most_twice_the_limit(open_for: timedelta, chance: float) -> None:
    wait = backoff.aside_in(open_for=open_for, slow_for=timedelta(), chance=chance)
    assert SECOND <= wait <= 2 * backoff.ASIDE_MOST
    assert wait >= min(open_for, backoff.ASIDE_MOST)
    assert backoff.aside_in(open_for=timedelta(), slow_for=open_for, chance=chance) <= 2 * backoff.SLOW_MOST


def test_event_is_dead_lettered_after_attempts_and_time() -> None:
    long_ago = NOW - backoff.PATIENCE
    enough: dict[str, datetime] = {"first_at": long_ago, "delivered_at": NOW, "now": NOW}
    assert backoff.spent(backoff.ATTEMPTS, **enough)
    assert not backoff.spent(backoff.ATTEMPTS - 1, **enough)
    assert not backoff.spent(backoff.ATTEMPTS, **enough | {"first_at": long_ago + SECOND})
    assert not backoff.spent(backoff.ATTEMPTS, first_at=long_ago, delivered_at=None, now=NOW)
    assert not backoff.spent(backoff.ATTEMPTS, **enough | {"delivered_at": long_ago})


def test_old_delivery_is_in_vain_only_if_other_endpoints_work() -> None:
    began = NOW - backoff.PATIENCE
    assert backoff.in_vain(first_at=began, open_since=NOW - HOUR, delivered_at=NOW, now=NOW)
    assert not backoff.in_vain(first_at=began, open_since=None, delivered_at=NOW, now=NOW)
    assert not backoff.in_vain(first_at=began, open_since=NOW - HOUR + SECOND, delivered_at=NOW, now=NOW)
    assert not backoff.in_vain(first_at=began + SECOND, open_since=NOW - HOUR, delivered_at=NOW, now=NOW)
    assert not backoff.in_vain(first_at=began, open_since=NOW - HOUR, delivered_at=began, now=NOW)
    assert not backoff.in_vain(first_at=began, open_since=NOW - HOUR, delivered_at=None, now=NOW)
