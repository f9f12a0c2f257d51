"""The SQLite file is deleted, moved or replaced while it is open: nothing is acknowledged that the next start lacks."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import Deciding, a_task, writing
from tests.support.conditions import until
from tracker.errors import CommitUnknown, StoreUnavailable
from tracker.model.changes import Change, Known
from tracker.storage.store import Store


class Place:
    """A database in a folder of its own, reached through a symbolic link, with one task in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.file = self.folder / "real.db"
        self.link = folder / "homing.db"
        self.link.symlink_to(self.file)
        self.store = Store(f"sqlite:///{self.link}")

    def backup(self) -> Path:
        """Copy the database as it is now, in one file."""
        copy = self.folder.parent / "backup.db"
        with closing(sqlite3.connect(self.file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        return copy

    def tasks(self) -> set[str]:
        """Return the task IDs that the next start would find, without closing the open store."""
        copy = self.folder.parent / "next-start"
        shutil.copytree(self.folder, copy)
        with closing(sqlite3.connect(copy / self.file.name)) as database:
            found = {task_id for (task_id,) in database.execute("SELECT id FROM tasks")}
        shutil.rmtree(copy)
        return found


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.store.open()
    await made.store.apply([writing(a_task(1))])
    yield made
    await made.store.close()


def away(place: Place) -> None:
    place.file.rename(place.folder.parent / "kept.db")


def back(place: Place) -> None:
    (place.folder.parent / "kept.db").rename(place.file)


def folder_away(place: Place) -> None:
    place.folder.rename(place.folder.parent / "elsewhere")


def folder_back(place: Place) -> None:
    (place.folder.parent / "elsewhere").rename(place.folder)


def another(place: Place) -> None:
    away(place)
    place.file.touch()


def another_link(place: Place) -> None:
    place.link.unlink()
    place.link.symlink_to(place.backup())


def link_back(place: Place) -> None:
    place.link.unlink()
    place.link.symlink_to(place.file)


@pytest.mark.parametrize(
    ("lose", "restore", "reason"),
    [
        (away, back, "deleted or moved"),
        (folder_away, folder_back, "deleted or moved"),
        (another, back, "names another file"),
        (another_link, link_back, "names another file"),
    ],
)
async def test_lost_file_is_refused_until_it_is_back(
    place: Place, lose: Callable[[Place], None], restore: Callable[[Place], None], reason: str
) -> None:
    lose(place)

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=reason):
            await place.store.apply([writing(a_task(2))])
        with pytest.raises(StoreUnavailable, match=reason):
            await place.store.ping()

    restore(place)
    await place.store.apply([writing(a_task(3))])
    await place.store.ping()
    assert {a_task(1).id, a_task(3).id} <= place.tasks()


async def test_file_lost_during_a_commit_is_not_acknowledged(place: Place) -> None:
    """The file is there when the batch begins, and gone when it is committed."""
    work = writing(a_task(2))

    def decide(known: Known) -> Change[Any]:
        place.file.unlink()
        return work.decide(known)

    # If the file comes back, the commit is there.
    with pytest.raises(CommitUnknown, match="deleted or moved"):
        await place.store.apply([Deciding(keys=work.keys, decide=decide)])


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]])
async def test_lost_log_is_saved_and_recreated(place: Place, suffixes: list[str]) -> None:
    await place.store.tasks.get(a_task(1).id)  # a reader has the log open too
    for suffix in suffixes:
        place.file.with_name(place.file.name + suffix).unlink()

    with pytest.raises(StoreUnavailable, match="write-ahead log"):
        await place.store.apply([writing(a_task(2))])

    async def works() -> bool:
        try:
            await place.store.apply([writing(a_task(3))])
        except StoreUnavailable:
            return False
        return True

    assert a_task(1).id in place.tasks()
    await until(works)
    assert {a_task(1).id, a_task(3).id} <= place.tasks()
    assert await place.store.tasks.get(a_task(3).id) == a_task(3)


@pytest.mark.parametrize("noticed", [True, False])
async def test_restored_backup_is_served_after_restart(place: Place, *, noticed: bool) -> None:
    """The log that belongs to the file before must not be applied to the backup."""
    backup = place.backup()
    await place.store.apply([writing(a_task(2))])

    away(place)
    shutil.copy(backup, place.file)
    if noticed:
        with pytest.raises(StoreUnavailable, match="names another file"):
            await place.store.apply([writing(a_task(3))])
    else:
        await place.store.close()

    assert place.tasks() == {a_task(1).id}
    with closing(sqlite3.connect(place.folder.parent / "kept.db")) as kept:
        assert {a_task(1).id, a_task(2).id} == {each for (each,) in kept.execute("SELECT id FROM tasks")}


async def test_reader_does_not_open_another_file(place: Place) -> None:
    another(place)

    with pytest.raises(StoreUnavailable, match="names another file"):
        await place.store.tasks.get(a_task(1).id)


async def test_reopened_store_creates_its_own_log(place: Place) -> None:
    await place.store.close()
    for number in range(8):
        # New files get the places on the disk that the deleted log had, so the next log is seen to be another one.
        (place.folder / f"other-{number}").touch()
    await place.store.open()

    await place.store.apply([writing(a_task(2))])

    assert await place.store.tasks.get(a_task(2).id) is not None


async def test_percent_encoded_path_is_decoded_once(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a%20b%2525?.db".replace("?", "%3F"))
    await store.open()
    await store.close()

    assert store.file == tmp_path / "a b%25?.db"
    assert store.file.exists()
