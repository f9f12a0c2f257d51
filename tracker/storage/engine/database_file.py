"""The file of a SQLite database: its path, and whether the path still names the file that is open.

A process with an open file continues to write to it after the file was deleted or replaced. The next start does not
find those writes. SQLite keeps the newest commits in a second file, the write-ahead log, which has the same problem.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

from tracker.errors import StoreUnavailable

# The write-ahead log and its index. SQLite deletes both only when the last connection is closed.
COMPANIONS: Final = ("-wal", "-shm")
Identity = tuple[int, int]


class Loss(StrEnum):
    """What happened to an open file, and what to do."""

    GONE = (
        "the database file was deleted or moved, or its disk was unmounted. "
        "Put the same file back. Or stop Homing, restore a backup, and start Homing again"
    )
    REPLACED = (
        "the path of the database now names another file than the open one, so nothing is written. "
        "Restart Homing to use that file, or put the first one back"
    )
    LOG = (
        "the write-ahead log beside the database file (-wal, -shm) was deleted or replaced. "
        "Homing saved its content and opens the database again by itself. Do not delete these files while Homing runs"
    )


def exists(path: Path) -> bool:
    """Return whether a path leads to a file that can be inspected. Every error counts as no."""
    return _identity(str(path)) is not None


class OpenFile:
    """The file that SQLite has open: device and inode of the database, of its log and of its index.

    While SQLite has a file open, no other file gets its inode. So equal numbers mean the same file.
    """

    def __init__(self, path: Path) -> None:
        # A later chdir of an embedding program must not change what the path names.
        self._path = os.path.abspath(path)  # noqa: PTH100 - a string costs less to stat
        self._database: Identity | None = None
        self._companions: list[tuple[str, Identity | None]] = []

    def expect(self) -> None:
        """Remember the file that the path names now. Later calls compare: only that file may be opened again.

        Raises StoreUnavailable.
        """
        if self._database is None:
            self._database = _identity(self._path)
            self._companions = []
        elif (loss := self.file_loss()) is not None:
            raise StoreUnavailable(loss.value)

    def forget_log(self) -> None:
        """Let the next commit create a new log, after every connection is closed."""
        self._companions = []

    def file_loss(self) -> Loss | None:
        """Return what happened to the database file itself. Costs one system call."""
        if self._database is None or (found := _identity(self._path)) == self._database:
            return None
        return Loss.GONE if found is None else Loss.REPLACED

    def lost(self) -> Loss | None:
        """Return what happened to the file or its log, right after a commit. Costs three system calls."""
        if (loss := self.file_loss()) is not None:
            return loss
        if not self._companions:
            # SQLite names both by the path without symbolic links, and creates them at the first commit or earlier.
            real = os.path.realpath(self._path)
            self._companions = [(real + suffix, _identity(real + suffix)) for suffix in COMPANIONS]
        for path, known in self._companions:
            if known is None or _identity(path) != known:
                return Loss.LOG
        return None


def _identity(path: str) -> Identity | None:
    """Return device and inode, or None if the path leads to no file that can be inspected."""
    try:
        found = os.stat(path)  # noqa: PTH116 - with every commit
    except OSError:
        return None
    return found.st_dev, found.st_ino
