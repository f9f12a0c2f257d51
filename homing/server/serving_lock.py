"""The serving lock: one process at a time serves a SQLite database.

The lock is ``flock`` on ``<database>.lock``. The kernel releases it, also if the process crashes. The file contains the
process ID, and the URL if the process is a server. A PostgreSQL database needs no such lock.

Symbolic links are resolved, so the lock is beside the file that SQLite opens and beside its write-ahead log. A file
that has a second name in another folder (a hard link, a mount of the file alone) is refused: SQLite would keep a second
log there, and lose commits.

The package ``filelock`` is no replacement. It creates missing folders. On a file system without ``flock`` it uses a
file that stays after a crash.
"""

import fcntl
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tracker.errors import SettingsError

MOUNTS: Final = Path("/proc/self/mountinfo")
# Attempts to lock the file while another program deletes it or changes a link to it.
ATTEMPTS: Final = 100
HARD_LINKS: Final = (
    "the database file has {count} names (hard links), and SQLite keeps a separate log for each. "
    "Delete the other names (`find / -samefile {file}` lists them)"
)
MOUNTED: Final = "the database file is mounted without its folder, where SQLite keeps its log. Mount the folder instead"
NO_FILE: Final = "the path is not a file. Name a file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the lock. ``url`` is None while it starts, and for a short command."""

    pid: int | None = None
    url: str | None = None


class Held(Exception):
    """Another process holds the lock."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"held by process {holder.pid}")
        self.holder = holder


class ServingLock:
    """Holds the lock within the context, or does nothing if the database is not a file (None).

    The same object may be entered again within the context. Entering raises Held, or SettingsError for a refused file.
    """

    def __init__(self, database: Path | None) -> None:
        self._database = database
        self._file: int | None = None
        self._entered = 0

    def __enter__(self) -> Self:
        if self._database is not None and self._file is None:
            self._file = _locked(self._database)
            self.announce(None)
        self._entered += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._entered -= 1
        # The file stays, because without it two processes could lock two files with the same name.
        if self._file is not None and not self._entered:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def announce(self, url: str | None) -> None:
        """Record which process holds the lock, and its URL."""
        if self._file is None:
            return
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


def _locked(database: Path) -> int:
    """Take the lock of the file that SQLite opens under this name. Raises: Held, SettingsError."""
    for _ in range(ATTEMPTS):
        real = Path(os.path.realpath(database))
        check_names(real)
        path = real.with_name(real.name + ".lock")
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(file)
            os.close(file)
            raise Held(holder) from None
        if _is_file_at(path, file) and Path(os.path.realpath(database)) == real:
            try:
                check_names(real)
            except SettingsError:
                os.close(file)
                raise
            return file
        os.close(file)
    raise SettingsError(
        "HOMING_DATABASE_URL: another program keeps deleting the lock file beside the database. Stop that program"
    )


def check_names(database: Path) -> None:
    """Raise SettingsError if the file exists and can also be reached by another name or in another folder."""
    real = Path(os.path.realpath(database))
    try:
        found = real.stat()
    except OSError:
        return  # the file does not exist yet. If it cannot be created, opening it fails with the reason
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"HOMING_DATABASE_URL: {NO_FILE}")
    if found.st_nlink > 1:
        raise SettingsError(f"HOMING_DATABASE_URL: {HARD_LINKS.format(count=found.st_nlink, file=real)}")
    if str(real) in _mount_points():
        raise SettingsError(f"HOMING_DATABASE_URL: {MOUNTED}")


def _mount_points() -> set[str]:
    """Return the mount points on Linux, and nothing on other systems."""
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return set()
    # Blanks and backslashes are written as octal numbers. https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    paths = [re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split(b" ")[4]) for line in lines]
    return set(map(os.fsdecode, paths))


def _is_file_at(path: Path, file: int) -> bool:
    """Return whether the open file is the one that the path names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"HOMING_DATABASE_URL: cannot write beside the database ({error.strerror}: {path.parent}). "
            "Choose an existing directory with write permission"
        ) from None


def _read(file: int) -> Holder:
    """Read the holder from the lock file. If the text is not complete yet, the holder is unknown."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return Holder(pid=content.get("pid"), url=content.get("url"))
    except (ValueError, AttributeError):
        return Holder()
