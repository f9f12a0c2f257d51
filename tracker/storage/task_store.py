"""Tasks by their IDs, and the records that belong to one task."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, bindparam, select

from tracker.model.records import HistoryEntry
from tracker.model.task import Status, Task
from tracker.storage import rows
from tracker.storage.engine.plans import aside
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.retention_store import MADE_NOTHING, deleted_task
from tracker.storage.tables import OBSERVATIONS, SUBMISSIONS, TASKS

HISTORY_LIMIT: Final = 1000
# The statuses of a task that the provider has, or had.
ACCEPTED: Final = tuple(
    status.value for status in (Status.SUBMITTED, Status.PROCESSING, Status.SUCCEEDED, Status.FAILED)
)
NEWEST_ACCEPTED: Final = 50
NO_VALUES: Final[Mapping[str, str]] = MappingProxyType({})


class TaskStore(TableStore):
    """The tasks. A piece of a batch (``Store.apply``) changes them."""

    @read_transaction
    def get(self, connection: Connection, task_id: str) -> Task | None:
        """Return a task by Homing's ID."""
        return _first(connection, select(TASKS).where(TASKS.c.id == task_id))

    @read_transaction
    def find_ref(
        self,
        connection: Connection,
        ref: str,
        *,
        client: str | None,
        provider: str | None = None,
        kind: str | None = None,
    ) -> Task | None:
        """Find a task by Homing's ID, the provider's, or a client's external ID. ``client`` None sees all clients.

        Homing's ID has priority, then the provider's. Of several external IDs, the live one has priority, then the
        newest.
        """
        scope = {"client": client, "provider": provider, "kind": kind}
        values = {name: value for name, value in scope.items() if value is not None}
        for column in ("id", "provider_task_id", "external_id"):
            statement = _find_statement(column, tuple(values))
            if (task := _first(connection, statement, values | {"ref": ref})) is not None:
                return task
        return None

    @read_transaction
    def history(self, connection: Connection, task_id: str) -> Sequence[HistoryEntry]:
        """Return the newest kept observations of a task, at most ``HISTORY_LIMIT``, oldest first."""
        column = OBSERVATIONS.c
        newest = select(OBSERVATIONS).where(column.task_id == task_id).order_by(column.id.desc()).limit(HISTORY_LIMIT)
        return [rows.entry_from_row(row) for row in reversed(connection.execute(newest).mappings().all())]

    @read_transaction
    def submission(self, connection: Connection, task_id: str) -> bytes | None:
        """Return the kept body of a create request, unless the provider provably has it."""
        statement = select(SUBMISSIONS.c.body).where(SUBMISSIONS.c.task_id == task_id)
        body: bytes | None = connection.execute(statement).scalar_one_or_none()
        return body

    @read_transaction
    def unresolved(self, connection: Connection, *, provider: str, kind: str, limit: int) -> Sequence[Task]:
        """Return the pending tasks of a kind whose create request may have been lost, oldest first."""
        pending = and_(TASKS.c.status == Status.PENDING.value, TASKS.c.provider == provider, TASKS.c.kind == kind)
        statement = select(TASKS).where(pending, TASKS.c.attempts > 0).order_by(TASKS.c.id).limit(limit)
        return [rows.task_from_row(row) for row in connection.execute(statement).mappings()]

    @read_transaction
    def latest_accepted(self, connection: Connection, *, provider: str, account: str, kind: str) -> Task | None:
        """Return one of the newest submitted tasks of a kind that the provider has, including finished ones.

        The query reads only the newest few of each status: any task will do, and it must not read a long history.
        """
        column = TASKS.c
        found: list[str] = []
        for status in ACCEPTED:
            newest = select(
                column.id, column.account, column.provider_task_id, column.sent_external_id, column.attempts
            )
            newest = newest.where(column.provider == provider, column.kind == kind, column.status == status)
            looked_at = connection.execute(newest.order_by(column.id.desc()).limit(NEWEST_ACCEPTED))
            found += [
                row.id
                for row in looked_at
                if row.account == account and row.provider_task_id and row.sent_external_id and row.attempts
            ]
        return _first(connection, select(TASKS).where(column.id == max(found))) if found else None

    @read_transaction
    def sent_id_used(self, connection: Connection, provider: str, account: str, external_id: str) -> bool:
        """Return whether a row of the account has used an external ID, or had used it before it was deleted.

        A refused row has not used it: the next submission takes it over.
        """
        column = TASKS.c
        named = and_(column.provider == provider, column.account == account, column.sent_external_id == external_id)
        if connection.execute(select(column.id).where(named, ~MADE_NOTHING).limit(1)).first() is not None:
            return True
        return deleted_task(connection, provider, account, external_id) is not None


@lru_cache
def _find_statement(column: str, scope: tuple[str, ...]) -> Select[Any]:
    """Build the query for a task by the ID in a column, once, because every request runs it."""
    within = [aside(TASKS.c[name]) == bindparam(name) for name in scope]
    found = select(TASKS).where(TASKS.c[column] == bindparam("ref"), *within)
    return found.order_by(TASKS.c.released, TASKS.c.id.desc()).limit(1)


def _first(connection: Connection, statement: Select[Any], values: Mapping[str, str] = NO_VALUES) -> Task | None:
    row = connection.execute(statement, values).mappings().one_or_none()
    return None if row is None else rows.task_from_row(row)
