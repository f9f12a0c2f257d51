"""The key file beside a SQLite file is created once, readable only by its owner, and overwrites nothing."""

import os
import stat
from pathlib import Path

import pytest

from homing.server.local_key import key_file, local_key, read_local_key
from tracker.errors import SettingsError

GOOD = "made-up-key-of-an-operator"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "homing.db"


def refusal(database: Path) -> str:
    with pytest.raises(SettingsError) as raised:
        local_key(database)
    assert "\n" not in raised.value.detail
    assert "HOMING_API_KEYS" in raised.value.detail
    assert GOOD not in raised.value.detail
    return raised.value.detail


def write(file: Path, text: str, mode: int = 0o600) -> None:
    file.write_text(text)
    file.chmod(mode)


def test_first_start_makes_private_key(database: Path) -> None:
    old = os.umask(0)
    try:
        made = local_key(database)
    finally:
        os.umask(old)

    assert made.made
    assert (made.key.name, made.key.sees_all, len(made.key.key)) == ("local", True, 43)
    assert made.file.read_text() == made.key.key + "\n"
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert list(database.parent.iterdir()) == [made.file]


def test_later_start_reads_same_key(database: Path) -> None:
    assert read_local_key(database) is None
    made = local_key(database)

    again = local_key(database)

    assert (again.key, again.made) == (made.key, False)
    assert read_local_key(database) == again


def test_operators_own_key_is_read(database: Path) -> None:
    write(key_file(database), f"{GOOD}\n")

    assert local_key(database).key.key == GOOD


def test_link_to_database_has_same_key(database: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(database)

    assert local_key(link).key == local_key(database).key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_key_readable_by_others_is_refused(database: Path, mode: int) -> None:
    write(key_file(database), GOOD, mode)

    assert "can be read by other users" in refusal(database)


@pytest.mark.parametrize("text", ["", "\n", "short", f'"{GOOD}"', f"local:{GOOD}", f"{GOOD}\n{GOOD}", "\xff" * 40])
def test_file_without_key_is_refused(database: Path, text: str) -> None:
    write(key_file(database), text)

    assert "has no valid key" in refusal(database)
    assert key_file(database).read_text() == text


def test_symbolic_link_is_not_followed(database: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret-of-somebody", GOOD)
    key_file(database).symlink_to(tmp_path / "secret-of-somebody")

    assert "symbolic link" in refusal(database)


def test_dangling_symbolic_link_is_not_written_through(database: Path, tmp_path: Path) -> None:
    key_file(database).symlink_to(tmp_path / "somewhere")

    assert "symbolic link" in refusal(database)
    assert not (tmp_path / "somewhere").exists()


def test_named_pipe_or_folder_is_refused_at_once(database: Path) -> None:
    os.mkfifo(key_file(database), 0o600)
    assert "is not a regular file" in refusal(database)

    key_file(database).unlink()
    key_file(database).mkdir(0o700)
    assert "is not a regular file" in refusal(database)


def test_unwritable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("homing.server.local_key._write", read_only)

    said = refusal(tmp_path / "homing.db")

    assert "cannot be written (Permission denied)" in said
    assert str(tmp_path) in said


def test_file_of_another_user_is_refused(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(key_file(database), GOOD)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    assert "belongs to another user" in refusal(database)


def test_database_owner_is_trusted(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may run the commands of a service that runs as its own user."""
    write(key_file(database), GOOD)
    database.touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    assert local_key(database).key.key == GOOD


def test_two_first_starts_agree_on_one_key(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def beaten(source: Path, target: Path, **options: bool) -> None:
        write(key_file(database), GOOD)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", beaten)

    found = local_key(database)

    assert (found.key.key, found.made) == (GOOD, False)
    assert [file.name for file in database.parent.iterdir()] == ["homing.db.key"]
