"""Every name of one database has the same serving lock, or Homing refuses it."""

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from homing.serve import Homing
from homing.server.serving_lock import Held, ServingLock
from tracker.errors import SettingsError
from tracker.settings import Settings
from tracker.storage.store import Store


def of(url: str) -> Settings:
    return Settings(database_url=url, port=0)


def files(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir() if each.is_file()}


def linked(file: Path) -> str:
    link = file.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(file)
    return f"sqlite:///{link}"


def linked_folder(file: Path) -> str:
    link = file.parent.with_name("link")
    link.symlink_to(file.parent)
    return f"sqlite:///{link / file.name}"


def encoded(file: Path) -> str:
    return f"sqlite:///{quote(str(file), safe='')}"


def relative(file: Path) -> str:
    return f"sqlite:///{os.path.relpath(file)}"


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("alias", [linked, linked_folder, encoded, relative])
def test_another_name_of_file_has_same_lock(tmp_path: Path, alias: Callable[[Path], str], *, existing: bool) -> None:
    file = tmp_path / "my data" / "a b.db"
    file.parent.mkdir()
    if existing:
        file.touch()
    url = alias(file)

    with ServingLock(of(f"sqlite:///{file}").database_file), pytest.raises(Held), ServingLock(of(url).database_file):
        pass

    with ServingLock(of(url).database_file):
        assert (file.parent / "a b.db.lock").exists()


@pytest.mark.parametrize("alias", [linked, encoded])
async def test_locked_file_is_opened_file(tmp_path: Path, alias: Callable[[Path], str]) -> None:
    file = tmp_path / "a b.db"
    store = Store(alias(file))

    await store.open()
    await store.close()

    assert files(tmp_path) == {"a b.db"}


def test_file_with_hard_link_is_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "homing.db", tmp_path / "other.db"
    file.touch()
    other.hardlink_to(file)

    for each in (file, other):
        with pytest.raises(SettingsError, match=r"has 2 names \(hard links\).*Delete the other") as refused:
            ServingLock(each).__enter__()
        assert "\n" not in refused.value.detail

    other.unlink()
    with ServingLock(file):
        pass


@pytest.mark.parametrize("name", [".", "pipe"])
def test_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(SettingsError, match=r"is not a file\. Name a file"), ServingLock(tmp_path / name):
        pass


def test_file_mounted_alone_is_refused(tmp_path: Path) -> None:
    file, mounted = tmp_path / "homing.db", tmp_path / "mounted file.db"
    file.touch()
    mounted.touch()
    try:
        subprocess.run(["mount", "--bind", str(file), str(mounted)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the test may not mount anything here")
    try:
        with pytest.raises(SettingsError, match="Mount the folder instead"), ServingLock(mounted):
            pass
        with ServingLock(file):
            pass
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_lock_file_deleted_while_acquired_is_recreated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes must not hold two lock files with one name."""
    flock = fcntl.flock
    deleted: list[int] = []

    def delete_first(file: int, operation: int) -> None:
        if not deleted:
            deleted.append(file)
            (tmp_path / "homing.db.lock").unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with ServingLock(tmp_path / "homing.db"), pytest.raises(Held), ServingLock(tmp_path / "homing.db"):
        pass


async def test_embedded_homing_takes_lock_in_each_way(tmp_path: Path) -> None:
    first, second = (Homing(of(f"sqlite:///{tmp_path / 'homing.db'}")) for _ in range(2))

    async with first:
        with pytest.raises(SettingsError, match="already serves"):
            async with second:
                pass
        with pytest.raises(SettingsError, match="already serves"):
            async with second.lifespan():
                pass

    async with second:
        pass
