"""The audit: the actions of operators, each recorded in the same transaction as the action.

It contains names and IDs, and never a secret, a token or a body.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection, insert, select

from tracker.model.records import Action, AuditEntry
from tracker.storage import rows
from tracker.storage.engine import bulk
from tracker.storage.engine.bulk import Statement
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.tables import AUDIT

T = TypeVar("T")

COLUMNS: Final = ("at", "client", "action", "object", "detail")

log: Final = logging.getLogger("homing.audit")


class AuditStore(TableStore):
    """Records and reads the audit."""

    async def write(self, entry: AuditEntry) -> None:
        """Record an action that does not change the database, before it happens."""
        await self.run(lambda _: None, lambda _: entry)

    async def run(self, step: Callable[[Connection], T], entry_of: Callable[[T], AuditEntry | None]) -> T:
        """Run a step and record it in one transaction. ``entry_of`` gets the result and returns the entry or None."""
        result, entry = await self.database.write(_audited, step, entry_of)
        if entry is not None:
            say([entry])
        return result

    @read_transaction
    def entries(
        self,
        connection: Connection,
        *,
        client: str | None = None,
        action: Action | None = None,
        before: int | None = None,
        limit: int,
    ) -> Sequence[AuditEntry]:
        """Return the entries with a smaller ID than ``before``, newest first."""
        statement = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if client is not None:
            statement = statement.where(AUDIT.c.client == client)
        if action is not None:
            statement = statement.where(AUDIT.c.action == action.value)
        if before is not None:
            statement = statement.where(AUDIT.c.id < before)
        return [
            AuditEntry(
                id=row.id,
                at=rows.moment(row.at),
                client=row.client,
                action=Action(row.action),
                object=row.object,
                detail=row.detail,
            )
            for row in connection.execute(statement)
        ]


def insert_entries(dialect: str, entries: Sequence[AuditEntry]) -> Iterator[Statement]:
    """Yield the statements that write the entries of a batch."""
    yield from bulk.insert_rows(dialect, AUDIT, COLUMNS, [_columns(entry) for entry in entries])


def say(entries: Iterable[AuditEntry]) -> None:
    """Log committed entries, one line each."""
    for entry in entries:
        fields = [_plain(text) for text in (entry.client, entry.action.value, entry.object, entry.detail)]
        log.info("audit: client=%s action=%s object=%s detail=%s", *fields)


def _audited(
    connection: Connection, step: Callable[[Connection], T], entry_of: Callable[[T], AuditEntry | None]
) -> tuple[T, AuditEntry | None]:
    result = step(connection)
    entry = entry_of(result)
    if entry is not None:
        connection.execute(insert(AUDIT).values(dict(zip(COLUMNS, _columns(entry), strict=True))))
    return result, entry


def _columns(entry: AuditEntry) -> tuple[int, str, str, str, str]:
    return rows.stamp(entry.at), entry.client, entry.action.value, entry.object, entry.detail


def _plain(text: str) -> str:
    """Return an ID from a client without characters that would break the log line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
