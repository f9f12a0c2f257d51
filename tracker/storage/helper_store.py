"""The recorded helper calls: begun before they are sent, ended before their client is answered."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, literal, or_, select, update

from tracker.errors import StoreUnavailable
from tracker.model.helper_records import HelperRecord, HelperState
from tracker.model.provider_objects import Claim
from tracker.storage import rows
from tracker.storage.claim_store import add_claims
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.helper_tables import HELPER_CALLS

# A larger answer is not kept. Only its digest and its size are.
MAX_KEPT_ANSWER: Final = 256 << 10
# Fields whose columns contain the value unchanged.
PLAIN: Final = ("provider", "account", "client", "call", "request_hash", "idempotency_key")
# After these ends nothing was done, so the key may be used again.
NOTHING_DONE: Final = frozenset({HelperState.REFUSED, HelperState.NOT_SENT})


class HelperStore(TableStore):
    """The recorded helper calls."""

    @read_transaction
    def find(self, connection: Connection, client: str, idempotency_key: str) -> HelperRecord | None:
        """Return the call of a client with an idempotency key."""
        return _find(connection, client, idempotency_key)

    @write_transaction
    def begin(self, connection: Connection, record: HelperRecord) -> tuple[HelperRecord, bool]:
        """Record a call that is about to be sent. Return it and true, or the earlier call with its key and false."""
        values = {name: getattr(record, name) for name in (*PLAIN, "owner")}
        values |= {"state": record.state.value, "body": b"", "digest": "", "size": 0, "why": ""}
        values |= {"created_at": rows.stamp(record.created_at), "until": rows.stamp(record.until)}
        statement = upsert(connection, HELPER_CALLS).values(values).on_conflict_do_nothing()
        made = connection.execute(statement.returning(HELPER_CALLS.c.id)).scalar_one_or_none()
        if made is not None:
            return msgspec.structs.replace(record, id=made), True
        assert record.idempotency_key is not None
        earlier = _find(connection, record.client, record.idempotency_key)
        if earlier is None:
            raise StoreUnavailable("another call with the same Idempotency-Key ended at this moment. Try again")
        return earlier, False

    @write_transaction
    def end(self, connection: Connection, record: HelperRecord, claims: Iterable[Claim] = ()) -> None:
        """Record the end of a call and the objects that it made. A late answer replaces ``unknown``."""
        values: dict[str, object] = {
            "state": record.state.value,
            "ended_at": rows.optional_stamp(record.ended_at),
            "http_status": record.http_status,
            "body": record.body if record.size <= MAX_KEPT_ANSWER else b"",
            "digest": record.digest,
            "size": record.size,
            "why": record.why,
        }
        if record.state in NOTHING_DONE:
            values["idempotency_key"] = None
        column = HELPER_CALLS.c
        open_ = column.state.in_([HelperState.SENDING.value, HelperState.UNKNOWN.value])
        connection.execute(update(HELPER_CALLS).where(column.id == record.id, open_).values(values))
        add_claims(connection, claims)

    @read_transaction
    def lost(self, connection: Connection, *, now: datetime, alone: str | None, limit: int) -> Sequence[HelperRecord]:
        """Return calls without an answer in time. ``alone`` is the owner if no other process can be sending any."""
        column = HELPER_CALLS.c
        over: ColumnElement[bool] = column.until <= rows.stamp(now)
        if alone is not None:
            over = or_(over, column.owner != alone)
        statement = select(HELPER_CALLS).where(column.state == HelperState.SENDING.value, over)
        return [_of(row) for row in connection.execute(statement.order_by(column.id).limit(limit)).mappings()]

    @read_transaction
    def page(
        self,
        connection: Connection,
        *,
        client: str | None,
        state: HelperState | None,
        before: int | None,
        limit: int,
    ) -> Sequence[HelperRecord]:
        """Return the calls with a smaller ID than ``before``, newest first, without their answers."""
        column = HELPER_CALLS.c
        wanted: list[ColumnElement[bool]] = [column.id < before] if before is not None else []
        if client is not None:
            wanted.append(column.client == client)
        if state is not None:
            wanted.append(column.state == state.value)
        # Nobody is shown the answers, and each may have 256 KiB.
        columns = [each for each in column if each.name != "body"]
        statement = select(*columns, literal(b"").label("body")).where(*wanted).order_by(column.id.desc()).limit(limit)
        return [_of(row) for row in connection.execute(statement).mappings()]


def _find(connection: Connection, client: str, idempotency_key: str) -> HelperRecord | None:
    column = HELPER_CALLS.c
    statement = select(HELPER_CALLS).where(column.client == client, column.idempotency_key == idempotency_key)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _of(row)


def _of(row: rows.Row) -> HelperRecord:
    return HelperRecord(
        **{name: row[name] for name in (*PLAIN, "id", "owner", "http_status", "body", "digest", "size", "why")},
        state=HelperState(row["state"]),
        created_at=rows.moment(row["created_at"]),
        until=rows.moment(row["until"]),
        ended_at=rows.optional_moment(row["ended_at"]),
    )
