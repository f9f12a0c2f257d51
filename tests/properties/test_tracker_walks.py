"""Walks through the stateful test's world that chance takes seldom: the ways to a second submit, and not to one."""

from collections.abc import Iterator

import pytest

from tests.properties.test_tracker_stateful import CLIENTS, OPERATOR, World
from tracker.model.task import Status, Trust


@pytest.fixture
def world() -> Iterator[World]:
    """Yield a world whose provider supports lookup by external ID. The world checks its own final state."""
    world = World()
    world.submit(CLIENTS[0], "nothing", 0, [])
    yield world
    world.teardown()


def times_made(world: World, number: int) -> int:
    return len(world.made(world.requests[number]))


def test_task_created_after_timeout_is_not_resubmitted(world: World) -> None:
    world.submit(CLIENTS[0], "external", 1, ["made late"])
    world.time_passes(5, 20, [])
    world.no_request_is_made_twice()
    assert times_made(world, 1) == 1


def test_task_missing_at_provider_is_resubmitted_once(world: World) -> None:
    world.submit(CLIENTS[0], "nothing", 1, ["nothing made"])
    assert times_made(world, 1) == 0
    world.time_passes(5, 20, [])
    assert times_made(world, 1) == 1


def test_second_lost_outcome_is_looked_up_first(world: World) -> None:
    world.submit(CLIENTS[0], "nothing", 1, ["nothing made"])
    world.time_passes(5, 60, ["nothing made", "made late"])
    world.no_request_is_made_twice()
    assert times_made(world, 1) == 1


def test_resubmission_after_crash_finds_provider_task(world: World) -> None:
    world.submit_and_die(CLIENTS[1], "hangs", named=False, twice=True)
    world.time_passes(20, 5, [])
    assert times_made(world, 1) == 1


def test_lost_submission_without_external_id_is_not_resent() -> None:
    world = World()
    world.kling.echoes = world.kling.looks_up = False
    world.submit(CLIENTS[0], "nothing", 0, ["reply lost"])
    world.time_passes(45, 20, [])
    task_id = next(iter(world.acknowledged))
    task = world.runner.run(world.tracker.get(OPERATOR, task_id))
    assert (task.status, task.reason) == (Status.PENDING, "unresolved")
    assert times_made(world, 0) == 1
    world.runner.run(world.record(task_id, world.kling.body(world.kling.ledger[0]), Trust.TOKEN))
    world.time_passes(300, 3, [])
    assert world.runner.run(world.tracker.get(OPERATOR, task_id)).provider_task_id == "kling-1"
    world.teardown()
