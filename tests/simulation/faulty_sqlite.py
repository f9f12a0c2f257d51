"""A disk under SQLite that fills up, and that fails at a write that an incident chose."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from unittest.mock import patch

DAY_SECONDS: Final = 86_400
# As a Julian day.
UNIX_EPOCH: Final = 2_440_587.5
BUSY_TIMEOUT: Final = "PRAGMA busy_timeout="
WRITES: Final = ("INSERT", "UPDATE", "DELETE", "WITH")


@dataclass(slots=True)
class Disk:
    """``full`` refuses every write. After ``fail_after`` more, one fails; ``after_commit``: a commit that was done."""

    full: bool = False
    fail_after: int | None = None
    after_commit: bool = False

    def write(self, *, commit: bool = False) -> None:
        """Raise what SQLite raises if a write fails now."""
        if self.full:
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        if self.fail_after is None:
            return
        if self.fail_after > 0 or (self.after_commit and not commit):
            self.fail_after -= self.fail_after > 0
            return
        self.fail_after = None
        raise _error("disk I/O error", sqlite3.SQLITE_IOERR)


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


def faulty_cursor(disk: Disk) -> type[sqlite3.Cursor]:
    """Return the cursors of a history: they write to ``disk``."""

    class FaultyCursor(sqlite3.Cursor):
        def execute(self, sql: str, *values: Any) -> Any:
            if sql.startswith(WRITES):
                disk.write()
            return super().execute(sql, *values)

        def executemany(self, sql: str, *values: Any) -> Any:
            if sql.startswith(WRITES):
                disk.write()
            return super().executemany(sql, *values)

    return FaultyCursor


def faulty_connection(disk: Disk, clock: Callable[[], datetime]) -> type[sqlite3.Connection]:
    """Return the connections of a history: they write to ``disk``, go by ``clock``, and wait for no lock."""

    cursors = faulty_cursor(disk)

    class FaultyConnection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            # In place of SQLite's own, which reads the clock of this machine.
            self.create_function("julianday", 1, lambda _: clock().timestamp() / DAY_SECONDS + UNIX_EPOCH)

        def execute(self, sql: str, *values: Any) -> Any:
            # To wait for a lock in real time would stop the world; ``inline_work`` waits in virtual time.
            return super().execute(f"{BUSY_TIMEOUT}0" if sql.startswith(BUSY_TIMEOUT) else sql, *values)

        def cursor(self, factory: Any = cursors) -> Any:
            return super().cursor(factory)

        def commit(self) -> None:
            fails_after = self.in_transaction and disk.after_commit
            if self.in_transaction and not fails_after:
                disk.write(commit=True)
            super().commit()
            if fails_after:
                disk.write(commit=True)

    return FaultyConnection


@contextmanager
def faulty_sqlite(disk: Disk, clock: Callable[[], datetime]) -> Iterator[None]:
    """Let every connection that Homing opens within the block be a ``faulty_connection``."""
    original: Any = sqlite3.connect
    factory = faulty_connection(disk, clock)

    def connect(*arguments: Any, **options: Any) -> Any:
        # Only Homing's own connections; the world opens others.
        if "cached_statements" in options:
            options |= {"factory": factory, "timeout": 0}
        return original(*arguments, **options)

    with patch("tracker.storage.engine.sqlite.sqlite3.connect", connect):
        yield
