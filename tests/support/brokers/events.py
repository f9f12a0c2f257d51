"""Events for a broker."""

from collections.abc import Sequence
from typing import Any, Final

from tests.support.builders import NOW, a_task
from tracker.model.event import TASK_TYPE, PublishedEvent
from tracker.model.task import Status

SOURCE: Final = "urn:homing:test"
# The statuses of a task in order; its version counts from 1.
STEPS: Final = (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED)


def an_event(number: int = 1, version: int = 1, **changes: Any) -> PublishedEvent:
    """Return an event of a task; ``number`` distinguishes tasks."""
    status = STEPS[min(version, len(STEPS)) - 1]
    task = a_task(number, version=version, status=status, **changes)
    return PublishedEvent(
        cursor=number * 100 + version, type=TASK_TYPE + status.value, sequence=version, at=NOW, task=task
    )


def a_large_event(number: int, size: int) -> PublishedEvent:
    """Make an event of about ``size`` bytes."""
    return an_event(number, request={"prompt": "x" * size})


def waves(tasks: int, versions: int = len(STEPS)) -> Sequence[Sequence[PublishedEvent]]:
    """Return waves of events as a relay sends them; each wave has one event of each task."""
    return [[an_event(number, version) for number in range(1, tasks + 1)] for version in range(1, versions + 1)]
