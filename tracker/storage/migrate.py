"""Bringing a database's schema up to date, with Alembic, over a connection that is already open."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from tracker.errors import StoreUnavailable


def upgrade(connection: Connection, *, to: str = "head") -> None:
    """Run every migration up to ``to`` that the database does not have yet, within the caller's transaction.

    Raises StoreUnavailable where it is not a database of ours, or one of a later version.
    """
    try:
        command.upgrade(_config(connection), to)
    except CommandError as error:
        raise StoreUnavailable("the database was made by a later version of Homing: install that, or newer") from error
    except OperationalError as error:
        if "already exists" not in str(error.orig):
            raise
        raise StoreUnavailable("the database belongs to another program: name another file") from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
