"""The outcome of earlier deliveries decides how many events an endpoint may receive."""

from datetime import timedelta

import pytest

from tests.support.builders import NOW
from tracker.delivery.circuit import FAILURES_TO_OPEN, UNLIMITED, Circuits, Turn
from tracker.delivery.sinks.base import DELIVERED, Outcome

NO = Outcome(delivered=False, error="no")
NEVER = Outcome(delivered=False, error="no", hopeless=True)
SECOND = timedelta(seconds=1)


class CircuitHarness:
    """Holds the circuits, of which the tests use one, and the current time."""

    def __init__(self, most: int = 100) -> None:
        self.now = NOW
        self.circuits = Circuits(lambda: 0.5, most=most)

    def room(self, turn: Turn = Turn.NEW, name: str = "shop") -> int:
        return self.circuits.of(name).room(turn, self.now)

    def sent(self, *outcomes: Outcome, first: int = 1, turn: Turn = Turn.NEW) -> bool:
        cursors = range(first, first + len(outcomes))
        self.circuits.sending("shop", len(outcomes))
        return self.circuits.note("shop", list(cursors), outcomes, turn=turn, now=self.now)


@pytest.fixture
def harness() -> CircuitHarness:
    return CircuitHarness()


def test_unknown_endpoint_gets_one_event_first(harness: CircuitHarness) -> None:
    assert harness.room() == 1
    harness.circuits.sending("shop", 1)
    assert harness.room() == harness.room(Turn.PENDING) == 0
    harness.circuits.note("shop", [1], [DELIVERED], turn=Turn.NEW, now=NOW)
    assert harness.room() == UNLIMITED


def test_failure_limits_endpoint_until_success(harness: CircuitHarness) -> None:
    harness.sent(DELIVERED)
    harness.sent(NO, first=2)
    assert harness.room() == 1
    harness.sent(DELIVERED, first=3)
    assert harness.room() == UNLIMITED


def test_failures_open_circuit_and_success_closes_it(harness: CircuitHarness) -> None:
    assert not harness.sent(*[NO] * FAILURES_TO_OPEN)
    assert harness.room() == harness.room(Turn.PENDING) == 0
    assert harness.circuits.retry_at == NOW + SECOND * 0.75
    harness.now += SECOND * 0.75
    assert harness.room() == 0, "the kind of delivery that probed last must wait"
    assert harness.room(Turn.PENDING) == 1
    assert harness.sent(DELIVERED, turn=Turn.PENDING)
    assert harness.room() == UNLIMITED
    assert harness.circuits.retry_at is None


def test_wave_with_one_success_opens_no_circuit(harness: CircuitHarness) -> None:
    harness.sent(*[NO] * 20, DELIVERED)
    assert harness.room() == UNLIMITED


def test_one_event_failing_repeatedly_opens_no_circuit(harness: CircuitHarness) -> None:
    harness.sent(DELIVERED)
    for _ in range(50):
        harness.sent(NO, first=2)
    assert harness.room() == 1


def test_hopeless_failure_opens_no_circuit(harness: CircuitHarness) -> None:
    harness.sent(DELIVERED)
    harness.sent(*[NEVER] * 20, first=2)
    assert harness.room() == UNLIMITED


def test_probes_become_rare_until_success(harness: CircuitHarness) -> None:
    waits = []
    for number in range(10):
        harness.sent(*[NO] * FAILURES_TO_OPEN, first=FAILURES_TO_OPEN * number)
        retry_at = harness.circuits.retry_at
        assert retry_at is not None
        waits.append((retry_at - harness.now).total_seconds())
        harness.now = retry_at
    assert waits == [0.75, 1.5, 3, 6, 12, 24, 45, 45, 45, 45]
    harness.sent(DELIVERED)
    harness.sent(*[NO] * FAILURES_TO_OPEN)
    assert harness.circuits.retry_at == harness.now + SECOND * 0.75


def test_retry_after_of_endpoint_is_honored(harness: CircuitHarness) -> None:
    harness.sent(*[Outcome(delivered=False, error="busy", retry_after=300 * SECOND)] * FAILURES_TO_OPEN)
    assert harness.circuits.retry_at == NOW + 300 * SECOND


def test_slow_endpoint_gets_one_delivery_at_a_time(harness: CircuitHarness) -> None:
    harness.sent(DELIVERED)
    harness.circuits.sending("shop", 1)
    assert harness.room() == UNLIMITED
    harness.circuits.note_speed("shop", slow=True, now=NOW)
    harness.circuits.note_speed("shop", slow=False, now=NOW)
    assert harness.room() == 0
    harness.circuits.note("shop", [2], [DELIVERED], turn=Turn.NEW, now=NOW)
    assert harness.room() == UNLIMITED
    harness.circuits.note_speed("shop", slow=False, now=NOW)
    harness.circuits.sending("shop", 1)
    assert harness.room() == UNLIMITED


def test_postponed_event_waits_longer_in_long_outage(harness: CircuitHarness) -> None:
    harness.sent(*[NO] * FAILURES_TO_OPEN)
    assert harness.circuits.aside_until("shop", harness.now) == NOW + SECOND * 1.5
    harness.now += 100 * SECOND
    harness.sent(NO)
    assert harness.circuits.aside_until("shop", harness.now) == harness.now + 150 * SECOND


def test_remembered_endpoints_are_bounded() -> None:
    harness = CircuitHarness(most=10)
    harness.sent(*[NO] * FAILURES_TO_OPEN)
    for number in range(100):
        harness.circuits.of(f"endpoint {number}")
    assert harness.room() == 0
    assert len(harness.circuits) <= 10
    for number in range(100):
        harness.circuits.note(f"endpoint {number}", [], [], turn=Turn.NEW, now=NOW)
        harness.circuits.of(f"endpoint {number}").refused.add(1)
    assert len(harness.circuits) <= 10


def test_clock_set_back_keeps_no_endpoint_blocked(harness: CircuitHarness) -> None:
    harness.sent(*[NO] * FAILURES_TO_OPEN)
    harness.now -= timedelta(hours=5)
    assert (harness.room(), harness.room(Turn.PENDING)) == (1, 1)
    harness.sent(NO, first=9)
    assert harness.room() == 0
    harness.now += 2 * SECOND
    assert harness.room(Turn.PENDING) == 1
