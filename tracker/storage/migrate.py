"""Bringing a database's schema up to date, with Alembic, over a connection that is already open.

The revision is in a table of Homing's own, so that an application that shares the database can use Alembic too. Before,
it was in Alembic's usual table, which is taken over.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from tracker.errors import StoreUnavailable
from tracker.storage import tables
from tracker.storage.account_table import ACCOUNTS
from tracker.storage.columns import METADATA
from tracker.storage.engine import locks
from tracker.storage.orphan_table import ORPHANS

LATER: Final = "the database was made by a later version of Homing: install that, or newer"
FOREIGN: Final = (
    "the database has tables of another program ({tables}){alembic}. "
    "Use another database, or on PostgreSQL a separate schema (HOMING_DATABASE_SCHEMA)"
)
ALEMBIC: Final = ", whose own Alembic keeps alembic_version there"
MIGRATE: Final = "run `homing migrate`"
NOT_ALLOWED: Final = "42501"
NO_SCHEMA: Final = (
    "the database user may not create the schema {schema} (HOMING_DATABASE_SCHEMA). "
    "Let an administrator run CREATE SCHEMA {schema} AUTHORIZATION followed by that user's name"
)
VERSION_TABLE: Final = "homing_schema_version"
FORMER_VERSION_TABLE: Final = "alembic_version"
# Every schema of Homing has these; together they are nobody else's.
OURS: Final = frozenset({tables.OBSERVATIONS.name, ORPHANS.name, tables.ADDRESSES.name})
# With that of `account_table`, which is a module of its own.
NAMES: Final = frozenset({*METADATA.tables, ACCOUNTS.name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The schema's revision before, None for a database without tables, and after."""

    before: str | None
    after: str | None


def upgrade(connection: Connection, *, schema: str | None = None, to: str = "head") -> Upgrade:
    """Run every migration up to ``to`` that the database does not have yet, within the caller's transaction.

    ``schema`` is made where it is missing; the connection already works in it.

    Raises StoreUnavailable where it is not a database of ours, or one of a later version.
    """
    if locks.is_shared(connection):
        # Building an index over many rows takes longer than any statement of a server may.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
    # Two that migrate at once would both begin with the same step.
    locks.lock_order(connection)
    if schema is not None and not inspect(connection).has_schema(schema):
        _make_schema(connection, schema)
    before = revision(connection)
    if before is None:
        _check_free(connection)
    elif _revision_in(connection, VERSION_TABLE) is None:
        _take_over(connection, before)
    try:
        command.upgrade(_config(connection), to)
    except CommandError as error:
        raise StoreUnavailable(LATER) from error
    return Upgrade(before=before, after=revision(connection))


def check(connection: Connection) -> None:
    """Raise StoreUnavailable, with what to do, unless the schema is the one that this version needs."""
    found, scripts = revision(connection), ScriptDirectory.from_config(_config(connection))
    needed = scripts.get_current_head()
    if found == needed:
        return
    if found is None:
        raise StoreUnavailable(f"the database has no tables yet: {MIGRATE}")
    if found not in {script.revision for script in scripts.walk_revisions()}:
        raise StoreUnavailable(LATER)
    raise StoreUnavailable(f"the database has the schema {found}, this version needs {needed}: {MIGRATE}")


def revision(connection: Connection) -> str | None:
    """Return the schema's revision, None where Homing has no tables."""
    found = _revision_in(connection, VERSION_TABLE)
    if found is None and _table_names(connection) >= OURS:
        return _revision_in(connection, FORMER_VERSION_TABLE)
    return found


def _make_schema(connection: Connection, schema: str) -> None:
    try:
        connection.execute(CreateSchema(schema))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
            raise
        raise StoreUnavailable(NO_SCHEMA.format(schema=schema)) from error


def _revision_in(connection: Connection, table: str) -> str | None:
    heads = MigrationContext.configure(connection, opts={"version_table": table}).get_current_heads()
    # Homing has one line of migrations: several heads are another program's.
    return heads[0] if len(heads) == 1 else None


def _check_free(connection: Connection) -> None:
    """Raise StoreUnavailable where a table that the first migration makes is there already."""
    found = _table_names(connection)
    if taken := sorted(found & NAMES):
        alembic = ALEMBIC if FORMER_VERSION_TABLE in found else ""
        raise StoreUnavailable(FOREIGN.format(tables=", ".join(taken), alembic=alembic))


def _take_over(connection: Connection, found: str) -> None:
    """Move the revision from Alembic's usual table to Homing's own."""
    if found not in {script.revision for script in ScriptDirectory.from_config(_config(connection)).walk_revisions()}:
        raise StoreUnavailable(LATER)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(ScriptDirectory.from_config(_config(connection)), found)
    connection.execute(text(f"DROP TABLE {FORMER_VERSION_TABLE}"))


def _table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config
