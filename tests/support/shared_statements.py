"""Lets all SQLite databases of a process share their compiled statements.

A process of Homing has one database and compiles each statement once. The tests have thousands of databases.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, create_engine


@contextmanager
def shared_statements() -> Iterator[None]:
    """Share the statements of all databases that Homing opens within the block."""
    with patch("tracker.storage.engine.sqlite.create_engine", _engine):
        yield


def _engine(*arguments: Any, **options: Any) -> Engine:
    engine, first = create_engine(*arguments, **options), _first()
    # A compiled statement belongs to a dialect. SQLAlchemy has no public way to share either.
    engine.dialect = first.dialect
    engine._compiled_cache = first._compiled_cache  # noqa: SLF001
    return engine


@cache
def _first() -> Engine:
    engine = create_engine("sqlite+pysqlite://")
    # A dialect is complete only after its first connection.
    engine.connect().close()
    engine.dispose()
    return engine
