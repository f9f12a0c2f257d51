"""Tests of the shared clock, which follows the clock of the database."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from homing.commands.doctor import database_clock
from homing.commands.findings import Level
from tests.support.builders import NOW
from tests.support.fakes import Clock
from tracker.model.clock import READINGS, ClockSettings, Deadline, Reading, SteeredClock, offset


def reading(ahead: float, round_trip: float = 0.002, *, at: float = 0.0) -> Reading:
    """Return a reading of a clock that is ``ahead`` seconds ahead, taken in the middle of the ``round_trip``."""
    before = NOW + timedelta(seconds=at)
    return Reading(
        before=before,
        at=before + timedelta(seconds=ahead + round_trip / 2),
        after=before + timedelta(seconds=round_trip),
    )


def seconds(readings: Sequence[Reading]) -> float:
    return offset(readings).total_seconds()


def test_offset_uses_shortest_round_trip() -> None:
    sure, vague = reading(1.5, round_trip=0.001), reading(1.52, round_trip=0.1)
    assert seconds([sure, vague]) == seconds([vague, sure]) == pytest.approx(1.5)


def test_offset_follows_a_clock_that_was_set() -> None:
    before = [reading(0.0, round_trip=0.001, at=second) for second in range(3)]
    set_back = reading(-3600.0, round_trip=0.2)
    assert seconds([*before, set_back]) == pytest.approx(-3600.0)
    # Readings from before the change do not count again, even if they were more exact.
    assert seconds([*before, set_back, reading(-3600.05, round_trip=0.05)]) == pytest.approx(-3600.05)


def test_reading_error_covers_half_the_round_trip() -> None:
    # The database read its clock at the very end of the round trip. Both clocks agree.
    late = Reading(before=NOW, at=NOW + timedelta(seconds=2), after=NOW + timedelta(seconds=2))
    assert abs(late.ahead) <= late.error


def test_two_wrong_clocks_are_steered_to_same_time() -> None:
    fast, slow = (SteeredClock(Clock(NOW + timedelta(hours=hours))) for hours in (3, -5))
    database = NOW
    for clock in (fast, slow):
        clock.steer(Reading(before=clock.own(), at=database, after=clock.own()))
    assert fast() == slow() == database


def test_unsteered_clock_is_the_machine_clock() -> None:
    own = Clock()
    clock = SteeredClock(own)
    own.advance(timedelta(minutes=5))
    assert clock() == own()


def test_reading_during_clock_reset_is_ignored() -> None:
    clock = SteeredClock(Clock())
    clock.steer(reading(2.0))
    clock.steer(Reading(before=NOW, at=NOW, after=NOW - timedelta(hours=1)))
    assert clock.ahead == timedelta(seconds=2)


def test_old_reading_is_dropped_to_follow_drift() -> None:
    clock = SteeredClock(Clock())
    clock.steer(reading(0.0, round_trip=0.001))
    for _ in range(READINGS):
        clock.steer(reading(0.04, round_trip=0.1))
    assert clock.ahead == timedelta(seconds=0.04)


@pytest.mark.parametrize(
    ("ahead", "level", "says"),
    [
        (0.3, Level.OK, "agrees"),
        (-0.9, Level.OK, "agrees"),
        (2.5, Level.NOTE, "2.5 s ahead of this machine's"),
        (-90.0, Level.NOTE, "90.0 s behind this machine's"),
    ],
)
def test_doctor_notes_database_clock_offset(ahead: float, level: Level, says: str) -> None:
    found = database_clock(reading(ahead))
    assert found.level is level
    assert says in found.detail


def test_clock_set_back_is_counted_until_steady() -> None:
    clock = Clock()
    settings = ClockSettings(clock, clock.monotonic)
    clock.advance(timedelta(hours=9))
    assert settings.steady_for(timedelta(days=1))

    for by, times in ((timedelta(hours=2), 0), (-timedelta(hours=3), 1), (timedelta(seconds=1), 1)):
        clock.set(by)
        assert settings.times_set_back() == times
    assert not settings.steady_for(timedelta(seconds=30))
    clock.advance(timedelta(seconds=30))
    assert settings.steady_for(timedelta(seconds=30))


def test_deadline_ignores_clock_changes() -> None:
    clock = Clock()
    deadline = Deadline(clock.monotonic, timedelta(seconds=10))

    clock.set(-timedelta(hours=3))
    clock.advance(timedelta(seconds=4))

    assert deadline.left == timedelta(seconds=6)
