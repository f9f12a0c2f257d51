"""The API key of a SQLite database for which none is configured: made at the first start, kept beside the file.

``<database>.key`` holds the key and nothing else, so that ``KEY=$(cat homing.db.key)`` reads it. Its client, ``local``,
sees every client's tasks: whoever can read this file can read the database as well.
"""

import errno
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from tracker.errors import SettingsError
from tracker.model.keys import NamedKey, key_fault

CLIENT: Final = "local"
KEY_BYTES: Final = 32
LONGEST_FILE: Final = 1024
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
INSTEAD: Final = "or set HOMING_API_KEYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalKey:
    """The key, the file that holds it, and whether this process made it just now."""

    key: NamedKey
    file: Path
    made: bool


def key_file(database: Path) -> Path:
    """Return where the key of a database file is: beside the file itself, whatever symbolic links lead there."""
    real = Path(os.path.realpath(database))
    return real.with_name(f"{real.name}.key")


def read_local_key(database: Path) -> LocalKey | None:
    """Read the key of a database file; None where there is none yet.

    Raises: SettingsError, where the file cannot be read or others can read it.
    """
    file = key_file(database)
    try:
        # Not blocking: a named pipe must not hold up the start.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            _refuse(file, "is a symbolic link. Put a regular file there")
        _refuse(file, f"cannot be read ({error.strerror}). Run as the user who owns it")
    try:
        _check_private(file, os.fstat(descriptor), database)
        text = os.read(descriptor, LONGEST_FILE).decode("latin-1").strip()
    finally:
        os.close(descriptor)
    if fault := key_fault(text):
        _refuse(file, f"holds no valid key: its content {fault}. Delete it, and the next start makes a new one")
    return LocalKey(key=_named(text), file=file, made=False)


def local_key(database: Path) -> LocalKey:
    """Read the key of a database file, or make it.

    Raises: SettingsError, where it can neither be read nor be written.
    """
    if (known := read_local_key(database)) is not None:
        return known
    file, key = key_file(database), secrets.token_urlsafe(KEY_BYTES)
    try:
        made = _write(file, key)
    except OSError as error:
        _refuse(file, f"cannot be written ({error.strerror}). Let this user write to the folder")
    # What another process wrote first counts; and a filesystem without permissions shows here.
    stored = read_local_key(database)
    if stored is None:
        _refuse(file, "was deleted while it was written. Start Homing again")
    return LocalKey(key=stored.key, file=file, made=made)


def _write(file: Path, key: str) -> bool:
    """Write a key so that a reader finds all of it or nothing; False where a file is there already."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(f"{key}\n".encode())
            opened.flush()
            os.fsync(descriptor)
        os.link(draft, file, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _check_private(file: Path, found: os.stat_result, database: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        _refuse(file, "is not a regular file. Remove it, and the next start makes one")
    if found.st_mode & OTHERS:
        _refuse(
            file, "can be read by other users. Run chmod 600 on it, or delete it, and the next start makes a new one"
        )
    owners = {os.geteuid()}
    if database.exists():
        # Root may run the commands of a service that has a user of its own.
        owners.add(database.stat().st_uid)
    if found.st_uid not in owners:
        _refuse(file, "belongs to another user. Delete it, and the next start makes a new one")


def _named(key: str) -> NamedKey:
    return NamedKey(name=CLIENT, key=key, sees_all=True)


def _refuse(file: Path, what: str) -> NoReturn:
    raise SettingsError(f"The API key file {file} {what}, {INSTEAD}.")
