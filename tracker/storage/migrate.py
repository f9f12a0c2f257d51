"""Migrates the schema of a database, with Alembic, over an open connection.

The revision of an earlier version is moved from Alembic's usual table to Homing's own (see ``schema_revision``).
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
from tracker.storage.account_table import ACCOUNTS
from tracker.storage.columns import METADATA
from tracker.storage.engine import event_order
from tracker.storage.schema_revision import (
    FORMER_VERSION_TABLE,
    LATER,
    VERSION_TABLE,
    known_revisions,
    revision,
    revision_in,
    table_names,
)

FOREIGN: Final = (
    "the database has tables of another program ({tables}){alembic}. "
    "Use another database, or on PostgreSQL a separate schema (HOMING_DATABASE_SCHEMA)"
)
ALEMBIC: Final = ", and that program's own Alembic keeps alembic_version there"
NOT_ALLOWED: Final = "42501"
NO_SCHEMA: Final = (
    "the database user may not create the schema {schema} (HOMING_DATABASE_SCHEMA). "
    "Let an administrator run CREATE SCHEMA {schema} AUTHORIZATION followed by that user's name"
)
# Includes the table of `account_table`, which is a separate module.
NAMES: Final = frozenset({*METADATA.tables, ACCOUNTS.name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The revision of the schema before (None without tables) and after the migration."""

    before: str | None
    after: str | None


def upgrade(connection: Connection, *, schema: str | None = None, to: str = "head") -> Upgrade:
    """Run all missing migrations up to ``to``, within the caller's transaction.

    ``schema`` is created if it is missing. The connection already uses it.

    Raises: StoreUnavailable, if the database belongs to another program or to a later version of Homing.
    """
    if event_order.is_shared(connection):
        # Building an index over many rows takes longer than any statement of a server may.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
    # Two concurrent migrations would both begin with the same step.
    event_order.lock_order(connection)
    if schema is not None and not inspect(connection).has_schema(schema):
        _make_schema(connection, schema)
    before = revision(connection)
    if before is None:
        _check_free(connection)
    elif revision_in(connection, VERSION_TABLE) is None:
        _take_over(connection, before)
    try:
        command.upgrade(_config(connection), to)
    except CommandError as error:
        raise StoreUnavailable(LATER) from error
    return Upgrade(before=before, after=revision(connection))


def _make_schema(connection: Connection, schema: str) -> None:
    try:
        connection.execute(CreateSchema(schema))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
            raise
        raise StoreUnavailable(NO_SCHEMA.format(schema=schema)) from error


def _check_free(connection: Connection) -> None:
    """Raise StoreUnavailable if a table of the first migration already exists."""
    found = table_names(connection)
    if taken := sorted(found & NAMES):
        alembic = ALEMBIC if FORMER_VERSION_TABLE in found else ""
        raise StoreUnavailable(FOREIGN.format(tables=", ".join(taken), alembic=alembic))


def _take_over(connection: Connection, found: str) -> None:
    """Move the revision from Alembic's usual table to Homing's own."""
    if found not in known_revisions():
        raise StoreUnavailable(LATER)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(ScriptDirectory.from_config(_config(connection)), found)
    connection.execute(text(f"DROP TABLE {FORMER_VERSION_TABLE}"))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config
