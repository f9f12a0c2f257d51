"""The state of each account at a provider, in one row that all processes write, and the capabilities of its URL."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, literal_column, or_, select

from tracker.model.records import AccountNote, AccountState
from tracker.model.task import Trouble
from tracker.storage import rows
from tracker.storage.account_table import ACCOUNTS
from tracker.storage.engine import bulk
from tracker.storage.engine.bulk import Statement
from tracker.storage.engine.table_store import TableStore, read_transaction
from tracker.storage.engine.upserts import Insert
from tracker.storage.tables import CAPABILITIES

CAPABILITY: Final = select(CAPABILITIES.c.present, CAPABILITIES.c.at).where(
    *(CAPABILITIES.c[name] == bindparam(name) for name in ("base_url", "kind", "name"))
)
NOTE: Final = ("provider", "account", "trouble", "why", "since", "at", "answered_at", "paused_until", "waited_at")


class AccountStore(TableStore):
    """The states of accounts, and the observed capabilities of provider URLs."""

    @read_transaction
    def states(self, connection: Connection) -> Sequence[AccountState]:
        """Return the state of each account."""
        found = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.provider, ACCOUNTS.c.account)).mappings()
        return [
            AccountState(
                provider=row["provider"],
                account=row["account"],
                trouble=Trouble(row["trouble"]) if row["trouble"] else None,
                why=row["why"],
                since=rows.moment(row["since"]),
                at=rows.moment(row["at"]),
                answered_at=rows.optional_moment(row["answered_at"]),
                paused_until=rows.optional_moment(row["paused_until"]),
                waited_at=rows.optional_moment(row["waited_at"]),
            )
            for row in found
        ]

    @read_transaction
    def capability(self, connection: Connection, base_url: str, kind: str, name: str) -> tuple[bool, datetime] | None:
        """Return whether a URL was seen to do something, and when. None means that it was never tried."""
        found = connection.execute(CAPABILITY, {"base_url": base_url, "kind": kind, "name": name}).one_or_none()
        return None if found is None else (found.present, rows.moment(found.at))


def note(dialect: str, notes: Sequence[AccountNote]) -> Iterator[Statement]:
    """Record notes in the order of their accounts, so that two batches cannot deadlock."""
    for one in sorted(notes, key=lambda each: (each.provider, each.account, each.at)):
        values = (
            one.provider,
            one.account,
            "" if one.trouble is None else one.trouble.value,
            one.why,
            rows.stamp(one.at),
            rows.stamp(one.at),
            *map(rows.optional_stamp, (one.answered_at, one.paused_until, one.waited_at)),
        )
        yield from bulk.insert_rows(dialect, ACCOUNTS, NOTE, [values], _noted)


def _noted(statement: Insert) -> Insert:
    new, old = statement.excluded, ACCOUNTS.c
    none: ColumnElement[str] = literal_column("''")
    # A note about a pause or a wait does not change the problem.
    speaks = or_(new.trouble != none, new.answered_at.is_not(None))
    changes = and_(speaks, new.trouble != old.trouble)
    return statement.on_conflict_do_update(
        index_elements=["provider", "account"],
        set_={
            "trouble": case((speaks, new.trouble), else_=old.trouble),
            "why": case((speaks, new.why), else_=old.why),
            "since": case((changes, new.since), else_=old.since),
            "at": case((speaks, new["at"]), else_=old["at"]),
            **{name: func.coalesce(new[name], old[name]) for name in ("answered_at", "paused_until", "waited_at")},
        },
    )
