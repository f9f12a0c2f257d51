"""The methods of the Tracker that only read the database."""

from collections.abc import Callable, Sequence
from datetime import datetime

from tracker.errors import NotFound
from tracker.model.records import HistoryEntry, Orphan, Stats, TaskFilter, TaskPage
from tracker.model.task import ClientIdentity, Task
from tracker.model.untrusted import identifier
from tracker.rules.learning import Habits
from tracker.service.arguments import own_tasks
from tracker.service.learner import Learner
from tracker.storage.store import Store


class TaskReads:
    """Reads of tasks, and of what Homing counts and learns. A client sees only its own tasks."""

    store: Store
    clock: Callable[[], datetime]
    learner: Learner

    async def get(
        self, client: ClientIdentity, ref: str, *, provider: str | None = None, kind: str | None = None
    ) -> Task:
        """Return a task by any of its IDs. Raises NotFound, also for the tasks of other clients."""
        task = None
        if identifier(ref) is not None:
            client_name = None if client.sees_all else client.name
            task = await self.store.tasks.find_ref(ref, client=client_name, provider=provider, kind=kind)
        if task is None:
            raise NotFound("no such task")
        return task

    async def find(
        self, wanted: TaskFilter, *, client: ClientIdentity, limit: int = 50, cursor: str | None = None
    ) -> TaskPage:
        """Return a page of the client's tasks, newest first."""
        return await self.store.task_pages.page(own_tasks(wanted, client), limit=limit, cursor=cursor)

    async def find_numbered(
        self, wanted: TaskFilter, *, client: ClientIdentity, offset: int, limit: int
    ) -> Sequence[Task]:
        """Return a numbered page of the client's tasks, newest first."""
        return await self.store.task_pages.numbered_page(own_tasks(wanted, client), offset=offset, limit=limit)

    async def history(self, client: ClientIdentity, ref: str) -> tuple[Task, Sequence[HistoryEntry]]:
        """Return a task and its kept observations, oldest first."""
        task = await self.get(client, ref)
        return task, await self.store.tasks.history(task.id)

    async def stats(self, client: ClientIdentity) -> Stats:
        """Return counts of the client's tasks, or of the whole store if the client sees all tasks."""
        return await self.store.stats(client=None if client.sees_all else client.name, now=self.clock())

    async def habits(self, client: ClientIdentity) -> Habits:
        """Return the learned schedule. It belongs to no client, so only keys with access to all clients get it."""
        return await self.learner.lately() if client.sees_all else Habits()

    async def orphans(self, *, limit: int = 100) -> Sequence[Orphan]:
        """Return the callbacks for unknown tasks, the latest first."""
        return await self.store.orphans.latest(limit=limit)
