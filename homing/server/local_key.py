"""The API key of a SQLite database without a configured key. The first start creates it beside the database file.

``<database>.key`` holds only the key, so that ``KEY=$(cat homing.db.key)`` reads it. Its client, ``local``, sees the
tasks of all clients, because a user who can read this file can also read the database.
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
MAX_FILE_BYTES: Final = 1024
OTHER_USERS_BITS: Final = stat.S_IRWXG | stat.S_IRWXO
ALTERNATIVE: Final = "or set HOMING_API_KEYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalKey:
    """The key, its file, and whether this process just created it."""

    key: NamedKey
    file: Path
    made: bool


def key_file(database: Path) -> Path:
    """Return the key file of a database. It is beside the real file, after symbolic links are resolved."""
    real = Path(os.path.realpath(database))
    return real.with_name(f"{real.name}.key")


def read_local_key(database: Path) -> LocalKey | None:
    """Read the key of a database file, or return None if there is none yet.

    Raises: SettingsError, if the file cannot be read, or if other users can read it.
    """
    file = key_file(database)
    try:
        # Opened without blocking, because a named pipe must not delay the start.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            _refuse(file, "is a symbolic link. Put a regular file there")
        _refuse(file, f"cannot be read ({error.strerror}). Run as the user who owns it")
    try:
        _check_private(file, os.fstat(descriptor), database)
        text = os.read(descriptor, MAX_FILE_BYTES).decode("latin-1").strip()
    finally:
        os.close(descriptor)
    if fault := key_fault(text):
        _refuse(file, f"has no valid key: its content {fault}. Delete it, and the next start creates a new one")
    return LocalKey(key=_named(text), file=file, made=False)


def local_key(database: Path) -> LocalKey:
    """Read the key of a database file, or create it.

    Raises: SettingsError, if it can be neither read nor written.
    """
    if (known := read_local_key(database)) is not None:
        return known
    file, key = key_file(database), secrets.token_urlsafe(KEY_BYTES)
    try:
        made = _write(file, key)
    except OSError as error:
        _refuse(file, f"cannot be written ({error.strerror}). Let this user write to the folder")
    # Another process may have written its key first. On a file system without permissions, reading fails here.
    stored = read_local_key(database)
    if stored is None:
        _refuse(file, "was deleted while it was written. Start Homing again")
    return LocalKey(key=stored.key, file=file, made=made)


def _write(file: Path, key: str) -> bool:
    """Write a key in one atomic step. Return False if a file already exists."""
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
        _refuse(file, "is not a regular file. Remove it, and the next start creates one")
    if found.st_mode & OTHER_USERS_BITS:
        _refuse(
            file, "can be read by other users. Run chmod 600 on it, or delete it, and the next start creates a new one"
        )
    owners = {os.geteuid()}
    if database.exists():
        # Root may run the commands of a service that has its own user.
        owners.add(database.stat().st_uid)
    if found.st_uid not in owners:
        _refuse(file, "belongs to another user. Delete it, and the next start creates a new one")


def _named(key: str) -> NamedKey:
    return NamedKey(name=CLIENT, key=key, sees_all=True)


def _refuse(file: Path, what: str) -> NoReturn:
    raise SettingsError(f"The API key file {file} {what}, {ALTERNATIVE}.")
