"""INSERT … ON CONFLICT, which both databases write alike and SQLAlchemy keeps in two dialects."""

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def upsert(connection: Connection, table: Table) -> Insert:
    """Begin an INSERT into ``table`` that takes ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return upsert_for(connection.dialect.name, table)


def upsert_for(dialect: str, table: Table) -> Insert:
    """Begin one for a dialect by its name."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
