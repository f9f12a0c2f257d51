"""The shared clock: where readings of the database's clock put ours."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from homing.commands.doctor import Level, database_clock
from tests.support.builders import NOW
from tests.support.fakes import Clock
from tracker.model.clock import READINGS, ClockSettings, Deadline, Reading, SteeredClock, offset


def reading(ahead: float, way: float = 0.002, *, at: float = 0.0) -> Reading:
    """Read a clock that is ``ahead`` seconds before ours, half of the ``way`` after we asked."""
    before = NOW + timedelta(seconds=at)
    return Reading(
        before=before,
        at=before + timedelta(seconds=ahead + way / 2),
        after=before + timedelta(seconds=way),
    )


def seconds(readings: Sequence[Reading]) -> float:
    return offset(readings).total_seconds()


def test_the_reading_with_the_shortest_way_counts() -> None:
    sure, vague = reading(1.5, way=0.001), reading(1.52, way=0.1)
    assert seconds([sure, vague]) == seconds([vague, sure]) == pytest.approx(1.5)


def test_a_clock_that_was_set_is_followed_from_the_next_reading_on() -> None:
    before = [reading(0.0, way=0.001, at=second) for second in range(3)]
    set_back = reading(-3600.0, way=0.2)
    assert seconds([*before, set_back]) == pytest.approx(-3600.0)
    # What was true before the change does not come back, however sure it was.
    assert seconds([*before, set_back, reading(-3600.05, way=0.05)]) == pytest.approx(-3600.05)


def test_an_answer_cannot_be_surer_than_half_its_way() -> None:
    # The database looked at its clock at the very end of the way; it shows the same time as ours.
    late = Reading(before=NOW, at=NOW + timedelta(seconds=2), after=NOW + timedelta(seconds=2))
    assert abs(late.ahead) <= late.error


def test_two_machines_with_wrong_clocks_tell_one_time() -> None:
    fast, slow = (SteeredClock(Clock(NOW + timedelta(hours=hours))) for hours in (3, -5))
    database = NOW
    for clock in (fast, slow):
        clock.steer(Reading(before=clock.own(), at=database, after=clock.own()))
    assert fast() == slow() == database


def test_until_it_is_steered_it_is_the_machines_own() -> None:
    own = Clock()
    clock = SteeredClock(own)
    own.advance(timedelta(minutes=5))
    assert clock() == own()


def test_a_reading_during_which_our_own_clock_was_set_back_measures_nothing() -> None:
    clock = SteeredClock(Clock())
    clock.steer(reading(2.0))
    clock.steer(Reading(before=NOW, at=NOW, after=NOW - timedelta(hours=1)))
    assert clock.ahead == timedelta(seconds=2)


def test_an_old_reading_is_forgotten_so_that_drift_is_followed() -> None:
    clock = SteeredClock(Clock())
    clock.steer(reading(0.0, way=0.001))
    for _ in range(READINGS):
        clock.steer(reading(0.04, way=0.1))
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
def test_the_doctor_notes_a_database_whose_clock_is_more_than_a_second_apart(
    ahead: float, level: Level, says: str
) -> None:
    found = database_clock(reading(ahead))
    assert found.level is level
    assert says in found.detail


def test_a_clock_that_was_set_is_noticed_and_steady_again_later() -> None:
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


def test_no_setting_of_the_clock_moves_a_deadline() -> None:
    clock = Clock()
    deadline = Deadline(clock.monotonic, timedelta(seconds=10))

    clock.set(-timedelta(hours=3))
    clock.advance(timedelta(seconds=4))

    assert deadline.left == timedelta(seconds=6)
