"""Taking a copy of a database, and putting it back while servers have the database open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.postgres import Postgres

SQLITE = "sqlite:///"


def back_up(url: str, folder: Path, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Copy a database, and return a function that restores the copy."""
    if url.startswith(SQLITE):
        file, copy = Path(url.removeprefix(SQLITE)), folder / "backup"
        _copy(file, copy)
        return lambda: _copy(copy, file)
    postgres: Postgres = request.getfixturevalue("postgres")
    dump = postgres.dump(url)
    return lambda: postgres.restore(url, dump)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)
