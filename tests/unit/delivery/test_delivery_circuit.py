"""What a receiver may be sent after what became of the last that it was sent."""

from datetime import timedelta

import pytest

from tests.support.builders import NOW
from tracker.delivery.circuit import FAILURES_TO_OPEN, UNLIMITED, Circuits, Turn
from tracker.delivery.sinks.base import DELIVERED, Outcome

NO = Outcome(delivered=False, error="no")
NEVER = Outcome(delivered=False, error="no", hopeless=True)
SECOND = timedelta(seconds=1)


class Play:
    """One lane of some, and the time."""

    def __init__(self, most: int = 100) -> None:
        self.now = NOW
        self.lanes = Circuits(lambda: 0.5, most=most)

    def room(self, turn: Turn = Turn.NEW, name: str = "shop") -> int:
        return self.lanes.of(name).room(turn, self.now)

    def sent(self, *outcomes: Outcome, first: int = 1, turn: Turn = Turn.NEW) -> bool:
        cursors = range(first, first + len(outcomes))
        self.lanes.sending("shop", len(outcomes))
        return self.lanes.note("shop", list(cursors), outcomes, turn=turn, now=self.now)


@pytest.fixture
def play() -> Play:
    return Play()


def test_unknown_endpoint_gets_one_event_first(play: Play) -> None:
    assert play.room() == 1
    play.lanes.sending("shop", 1)
    assert play.room() == play.room(Turn.PENDING) == 0
    play.lanes.note("shop", [1], [DELIVERED], turn=Turn.NEW, now=NOW)
    assert play.room() == UNLIMITED


def test_failure_limits_endpoint_until_success(play: Play) -> None:
    play.sent(DELIVERED)
    play.sent(NO, first=2)
    assert play.room() == 1
    play.sent(DELIVERED, first=3)
    assert play.room() == UNLIMITED


def test_failures_open_circuit_and_success_closes_it(play: Play) -> None:
    assert not play.sent(*[NO] * FAILURES_TO_OPEN)
    assert play.room() == play.room(Turn.PENDING) == 0
    assert play.lanes.retry_at == NOW + SECOND * 0.75
    play.now += SECOND * 0.75
    assert play.room() == 0, "who probed last lets the other go first"
    assert play.room(Turn.PENDING) == 1
    assert play.sent(DELIVERED, turn=Turn.PENDING)
    assert play.room() == UNLIMITED
    assert play.lanes.retry_at is None


def test_wave_with_one_success_opens_no_circuit(play: Play) -> None:
    play.sent(*[NO] * 20, DELIVERED)
    assert play.room() == UNLIMITED


def test_one_event_failing_repeatedly_opens_no_circuit(play: Play) -> None:
    play.sent(DELIVERED)
    for _ in range(50):
        play.sent(NO, first=2)
    assert play.room() == 1


def test_hopeless_failure_opens_no_circuit(play: Play) -> None:
    play.sent(DELIVERED)
    play.sent(*[NEVER] * 20, first=2)
    assert play.room() == UNLIMITED


def test_probes_become_rare_until_success(play: Play) -> None:
    waits = []
    for number in range(10):
        play.sent(*[NO] * FAILURES_TO_OPEN, first=FAILURES_TO_OPEN * number)
        retry_at = play.lanes.retry_at
        assert retry_at is not None
        waits.append((retry_at - play.now).total_seconds())
        play.now = retry_at
    assert waits == [0.75, 1.5, 3, 6, 12, 24, 45, 45, 45, 45]
    play.sent(DELIVERED)
    play.sent(*[NO] * FAILURES_TO_OPEN)
    assert play.lanes.retry_at == play.now + SECOND * 0.75


def test_retry_after_of_endpoint_is_honored(play: Play) -> None:
    play.sent(*[Outcome(delivered=False, error="busy", retry_after=300 * SECOND)] * FAILURES_TO_OPEN)
    assert play.lanes.retry_at == NOW + 300 * SECOND


def test_slow_endpoint_gets_one_delivery_at_a_time(play: Play) -> None:
    play.sent(DELIVERED)
    play.lanes.sending("shop", 1)
    assert play.room() == UNLIMITED
    play.lanes.note_speed("shop", slow=True, now=NOW)
    play.lanes.note_speed("shop", slow=False, now=NOW)
    assert play.room() == 0
    play.lanes.note("shop", [2], [DELIVERED], turn=Turn.NEW, now=NOW)
    assert play.room() == UNLIMITED
    play.lanes.note_speed("shop", slow=False, now=NOW)
    play.lanes.sending("shop", 1)
    assert play.room() == UNLIMITED


def test_postponed_event_waits_longer_in_long_outage(play: Play) -> None:
    play.sent(*[NO] * FAILURES_TO_OPEN)
    assert play.lanes.aside_until("shop", play.now) == NOW + SECOND * 1.5
    play.now += 100 * SECOND
    play.sent(NO)
    assert play.lanes.aside_until("shop", play.now) == play.now + 150 * SECOND


def test_remembered_endpoints_are_bounded() -> None:
    play = Play(most=10)
    play.sent(*[NO] * FAILURES_TO_OPEN)
    for number in range(100):
        play.lanes.of(f"lane {number}")
    assert play.room() == 0
    assert len(play.lanes) <= 10
    for number in range(100):
        play.lanes.note(f"lane {number}", [], [], turn=Turn.NEW, now=NOW)
        play.lanes.of(f"lane {number}").refused.add(1)
    assert len(play.lanes) <= 10


def test_clock_set_back_keeps_no_endpoint_blocked(play: Play) -> None:
    play.sent(*[NO] * FAILURES_TO_OPEN)
    play.now -= timedelta(hours=5)
    assert (play.room(), play.room(Turn.PENDING)) == (1, 1)
    play.sent(NO, first=9)
    assert play.room() == 0
    play.now += 2 * SECOND
    assert play.room(Turn.PENDING) == 1
