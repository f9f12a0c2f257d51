"""INSERT … ON CONFLICT. Both databases use the same syntax, but SQLAlchemy has it in two dialects."""

from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

Insert: TypeAlias = "sqlite.Insert | postgresql.Insert"


def upsert(connection: Connection, table: Table) -> Insert:
    """Begin an INSERT into ``table`` that takes ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return upsert_for(connection.dialect.name, table)


def upsert_for(dialect: str, table: Table) -> Insert:
    """Begin such an INSERT for a dialect by its name."""
    # Import only the dialect in use, because importing PostgreSQL's takes as long as a short command.
    begun: Insert = import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
    return begun
