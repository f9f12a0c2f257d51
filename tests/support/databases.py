"""SQLite files that have their tables already: to migrate anew costs more than most tests do."""

import asyncio
import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Final

from tracker.storage.store import Store

NAME: Final = "homing.db"


def sqlite_url(folder: Path) -> str:
    """Return the address of the database in a folder, which is made there unless it was before."""
    file = folder / NAME
    if not file.exists():
        shutil.copy(_template(), file)
    return f"sqlite:///{file}"


@cache
def _template() -> Path:
    folder = TemporaryDirectory(prefix="homing-template-")
    atexit.register(folder.cleanup)
    file = Path(folder.name) / NAME
    # The caller may be inside an event loop.
    opening = Thread(target=lambda: asyncio.run(_migrate(f"sqlite:///{file}")))
    opening.start()
    opening.join()
    return file


async def _migrate(url: str) -> None:
    store = Store(url)
    await store.open()
    await store.close()
