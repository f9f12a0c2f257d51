"""Who serves a SQLite database: one process at a time, known by a lock beside the file.

The lock is ``flock`` on ``<database>.lock``: the kernel frees it however the process ends. The file's text tells the
others where to go: the process id and, for a server, its address. A database that is a server has room for many.
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tracker.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the lock; ``url`` is None while it starts and for a command that only works briefly."""

    pid: int | None = None
    url: str | None = None


class Held(Exception):
    """Another process holds the lock."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"held by process {holder.pid}")
        self.holder = holder


class ServingLock:
    """Holds the lock from entering the context to leaving it; nothing where the database is no file (None).

    Entering raises Held, or SettingsError for a bad path.
    """

    def __init__(self, database: Path | None) -> None:
        self.path = database and database.with_name(database.name + ".lock")
        self._file: int | None = None

    def __enter__(self) -> Self:
        if self.path is None:
            return self
        file = _open(self.path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(file)
            os.close(file)
            raise Held(holder) from None
        self._file = file
        self.announce(None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # The file stays: removing it would let two processes lock two files of one name.
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def announce(self, url: str | None) -> None:
        """Write down who holds the lock, and where it answers."""
        if self._file is None:
            return
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"HOMING_DATABASE_URL: cannot write beside the database ({error.strerror}: {path.parent}); "
            "name a directory that exists and that you may write to"
        ) from None


def _read(file: int) -> Holder:
    """Read what the holder wrote; it may be writing just now, so anything else than its text is an unknown holder."""
    try:
        told = json.loads(os.pread(file, 4096, 0))
        return Holder(pid=told.get("pid"), url=told.get("url"))
    except (ValueError, AttributeError):
        return Holder()
