"""What was committed here last, so that it need not be read back: most readers of events are only just behind."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from tracker.models import Task

MOST: Final = 2_000


class Recent:
    """The tasks of the latest events of this process, as they were then, by id and version.

    Only what is surely committed may be kept: a batch that failed may be decided otherwise, here or by another process,
    under the same version.
    """

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, int], Task] = {}

    def keep(self, tasks: Iterable[Task]) -> None:
        self._tasks.update(((task.id, task.version), task) for task in tasks)
        if len(self._tasks) > MOST:
            for key in list(islice(self._tasks, len(self._tasks) - MOST)):
                del self._tasks[key]

    def get(self, task_id: str, version: int) -> Task | None:
        """Give a task as it was; any thread may ask."""
        return self._tasks.get((task_id, version))

    def __bool__(self) -> bool:
        return bool(self._tasks)
