"""Checks whether this version of Homing can use the schema of a database, without Alembic.

The revision is in Homing's own table, so that an application that shares the database can use Alembic too. Earlier
versions kept it in Alembic's usual table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, column, inspect, select, table

from tracker.errors import StoreUnavailable
from tracker.storage import tables
from tracker.storage.orphan_table import ORPHANS

LATER: Final = "the database belongs to a later version of Homing. Install that version or a newer one"
MIGRATE: Final = "Run `homing migrate`"
VERSION_TABLE: Final = "homing_schema_version"
FORMER_VERSION_TABLE: Final = "alembic_version"
# Every schema of Homing has these tables. No other program is expected to have all of them.
OURS: Final = frozenset({tables.OBSERVATIONS.name, ORPHANS.name, tables.CALLBACK_URLS.name})
MIGRATIONS: Final = Path(__file__).parent / "migrations" / "versions"


def check(connection: Connection) -> None:
    """Raise StoreUnavailable, with what to do, if the schema is not the one that this version needs."""
    found, known = revision(connection), known_revisions()
    needed = known[-1]
    if found == needed:
        return
    if found is None:
        raise StoreUnavailable(f"the database has no tables yet. {MIGRATE}")
    if found not in known:
        raise StoreUnavailable(LATER)
    raise StoreUnavailable(f"the database has the schema {found}, this version needs {needed}. {MIGRATE}")


def is_newest(connection: Connection) -> bool:
    """Return whether the schema is the one that this version needs, in Homing's own table."""
    return revision_in(connection, VERSION_TABLE) == known_revisions()[-1]


def revision(connection: Connection) -> str | None:
    """Return the revision of the schema, or None if Homing has no tables."""
    found = revision_in(connection, VERSION_TABLE)
    if found is None and table_names(connection) >= OURS:
        return revision_in(connection, FORMER_VERSION_TABLE)
    return found


def revision_in(connection: Connection, name: str) -> str | None:
    """Return the revision in one of the two tables, or None without the table."""
    if not inspect(connection).has_table(name):
        return None
    heads: Sequence[str] = connection.execute(select(column("version_num")).select_from(table(name))).scalars().all()
    # Homing has one line of migrations. Several heads belong to another program.
    return heads[0] if len(heads) == 1 else None


def known_revisions() -> list[str]:
    """Return the revisions that this version knows, the newest last. Each migration's file name begins with its own."""
    return sorted(file.name.partition("_")[0] for file in MIGRATIONS.glob("[0-9]*_*.py"))


def table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())
