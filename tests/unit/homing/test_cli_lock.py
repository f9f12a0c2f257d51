"""One process at a time holds the serving lock. Other processes can read its PID and URL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from homing.server.serving_lock import Held, ServingLock
from tracker.errors import SettingsError

HOLD = """
import sys, pathlib
from homing.server.serving_lock import ServingLock
lock = ServingLock(pathlib.Path(sys.argv[1])).__enter__()
lock.announce("http://127.0.0.1:8001")
print("held", flush=True)
sys.stdin.read()
"""


def test_second_holder_learns_who_is_first(tmp_path: Path) -> None:
    database = tmp_path / "homing.db"
    with ServingLock(database) as lock:
        lock.announce("http://127.0.0.1:8000")
        with pytest.raises(Held) as caught, ServingLock(database):
            pass
    assert caught.value.holder.pid == os.getpid()
    assert caught.value.holder.url == "http://127.0.0.1:8000"


def test_short_holder_has_no_url(tmp_path: Path) -> None:
    with ServingLock(tmp_path / "homing.db"), pytest.raises(Held) as caught, ServingLock(tmp_path / "homing.db"):
        pass
    assert caught.value.holder.url is None


def test_lock_is_free_after_release(tmp_path: Path) -> None:
    with ServingLock(tmp_path / "homing.db") as first:
        first.announce("http://127.0.0.1:8000")
    with ServingLock(tmp_path / "homing.db"):
        assert json.loads((tmp_path / "homing.db.lock").read_text()) == {"pid": os.getpid(), "url": None}


def test_two_databases_have_two_locks(tmp_path: Path) -> None:
    with ServingLock(tmp_path / "one.db"), ServingLock(tmp_path / "two.db"):
        assert (tmp_path / "two.db.lock").exists()


def test_lock_file_is_readable_by_owner_only(tmp_path: Path) -> None:
    with ServingLock(tmp_path / "homing.db"):
        assert (tmp_path / "homing.db.lock").stat().st_mode & 0o077 == 0


def test_killed_holder_releases_lock(tmp_path: Path) -> None:
    database = tmp_path / "homing.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Held) as caught, ServingLock(database):
            pass
        assert caught.value.holder.url == "http://127.0.0.1:8001"
        holder.kill()
        holder.wait()
        with ServingLock(database):
            pass


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pid": 1'])
def test_held_lock_with_any_content_is_held(tmp_path: Path, text: str) -> None:
    with ServingLock(tmp_path / "homing.db"):
        (tmp_path / "homing.db.lock").write_text(text)
        with pytest.raises(Held) as caught, ServingLock(tmp_path / "homing.db"):
            pass
    assert caught.value.holder.url is None


def test_postgres_needs_no_lock_and_writes_nothing() -> None:
    with ServingLock(None) as first, ServingLock(None):
        first.announce("http://127.0.0.1:8000")


def test_missing_directory_is_one_line_with_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="Choose an existing directory") as caught,
        ServingLock(tmp_path / "absent" / "homing.db"),
    ):
        pass
    assert "HOMING_DATABASE_URL" in caught.value.detail
