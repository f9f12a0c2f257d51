"""Shared callback URLs, stored under the hashes of their tokens. The audit records each creation and revocation."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from tracker.model.records import Action, AuditEntry, SharedCallbackUrl
from tracker.storage import rows
from tracker.storage.audit_store import AuditStore
from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.tables import CALLBACK_URLS


class CallbackUrlStore(TableStore):
    """The shared callback URLs, including revoked ones."""

    def __init__(self, database: Database, audit: AuditStore) -> None:
        super().__init__(database)
        self._audit = audit

    async def add(self, shared_url: SharedCallbackUrl, token_hash: str) -> SharedCallbackUrl:
        """Record a shared callback URL under the hash of its token, with an audit entry. Return it with its ID."""
        values = {
            "provider": shared_url.provider,
            "kind": shared_url.kind,
            "client": shared_url.client,
            "label": shared_url.label,
            "token_hash": token_hash,
            "created_at": rows.stamp(shared_url.created_at),
            "revoked_at": None,
        }

        def step(connection: Connection) -> SharedCallbackUrl:
            added = connection.execute(insert(CALLBACK_URLS).values(values).returning(CALLBACK_URLS))
            return rows.callback_url_from_row(added.mappings().one())

        return await self._audit.run(step, _creation)

    async def revoke(self, url_id: int, *, by: str, now: datetime) -> SharedCallbackUrl | None:
        """Revoke a shared callback URL, with an audit entry. Return None if there is none."""
        entry = AuditEntry(at=now, client=by, action=Action.REVOKE_CALLBACK_URL, object=str(url_id))

        def step(connection: Connection) -> SharedCallbackUrl | None:
            revoked_at = func.coalesce(CALLBACK_URLS.c.revoked_at, rows.stamp(now))
            revoked = update(CALLBACK_URLS).where(CALLBACK_URLS.c.id == url_id).values(revoked_at=revoked_at)
            found = connection.execute(revoked.returning(CALLBACK_URLS)).mappings().one_or_none()
            return None if found is None else rows.callback_url_from_row(found)

        return await self._audit.run(step, lambda found: entry if found else None)

    @read_transaction
    def all(self, connection: Connection) -> Sequence[SharedCallbackUrl]:
        """Return all shared callback URLs in the order of their creation."""
        found = connection.execute(select(CALLBACK_URLS).order_by(CALLBACK_URLS.c.id)).mappings()
        return [rows.callback_url_from_row(row) for row in found]

    @read_transaction
    def find(self, connection: Connection, provider: str, token_hash: str) -> SharedCallbackUrl | None:
        """Return the shared callback URL of a token, if it is not revoked."""
        column = CALLBACK_URLS.c
        live = (column.token_hash == token_hash, column.provider == provider, column.revoked_at.is_(None))
        found = connection.execute(select(CALLBACK_URLS).where(*live)).mappings().one_or_none()
        return None if found is None else rows.callback_url_from_row(found)


def _creation(made: SharedCallbackUrl) -> AuditEntry:
    return AuditEntry(
        at=made.created_at,
        client=made.client,
        action=Action.CREATE_CALLBACK_URL,
        object=str(made.id),
        detail=f"provider={made.provider}" + (f" kind={made.kind}" if made.kind else ""),
    )
