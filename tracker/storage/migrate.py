"""Bringing a database's schema up to date, with Alembic, over a connection that is already open."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tracker.errors import StoreUnavailable
from tracker.storage import locks

LATER: Final = "the database was made by a later version of Homing: install that, or newer"
FOREIGN: Final = "the database belongs to another program: name another one"
MIGRATE: Final = "run `homing migrate`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The schema's revision before, None for a database without tables, and after."""

    before: str | None
    after: str | None


def upgrade(connection: Connection, *, to: str = "head") -> Upgrade:
    """Run every migration up to ``to`` that the database does not have yet, within the caller's transaction.

    Raises StoreUnavailable where it is not a database of ours, or one of a later version.
    """
    if locks.is_shared(connection):
        # Building an index over many rows takes longer than any statement of a server may.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
    # Two that migrate at once would both begin with the same step.
    locks.lock_order(connection)
    before = revision(connection)
    try:
        command.upgrade(_config(connection), to)
    except CommandError as error:
        raise StoreUnavailable(LATER) from error
    except DBAPIError as error:
        if "already exists" not in str(error.orig):
            raise
        raise StoreUnavailable(FOREIGN) from error
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
    """Give the schema's revision, None where there is none."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
