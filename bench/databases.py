"""Empty databases for a benchmark: SQLite files in its folder, or databases of one PostgreSQL server."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import create_engine, text

from tracker.model.changes import Change, RecordChange, Work
from tracker.storage.store import Store

CHUNK: Final = 1_000


class Databases(Protocol):
    """Where databases are made; ``name`` is in the keys of the results."""

    @property
    def name(self) -> str: ...

    def fresh(self, name: str) -> str:
        """Make an empty database and give its address, as Homing's setting has it."""

    def analyse(self, url: str) -> None:
        """Count rows for the planner, as a server's own housekeeping does within a minute."""


class SqliteFiles:
    """Files in one folder."""

    name: Final = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def fresh(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}_{next(self._numbers)}.db"

    def analyse(self, url: str) -> None:
        """Nothing: nobody does that to a file."""


def migrated(databases: Databases, name: str) -> str:
    """Make a database with Homing's schema and give its address."""
    url = databases.fresh(name)
    asyncio.run(Store(url).migrate())
    return url


def write(url: str, changes: Iterable[Change[None]]) -> None:
    """Write many rows the way Homing does, some thousand changes in a transaction."""
    asyncio.run(_write(url, iter(changes)))


async def _write(url: str, changes: Iterator[Change[None]]) -> None:
    store = Store(url)
    await store.open()
    try:
        async with asyncio.TaskGroup() as writing:
            last = writing.create_task(asyncio.sleep(0))
            while works := [RecordChange(change) for change in islice(changes, CHUNK)]:
                await last
                # Written in a thread of the store's, while the next ones are made here.
                last = writing.create_task(_apply(store, works))
                await asyncio.sleep(0)
    finally:
        await store.close()


async def _apply(store: Store, works: Sequence[Work[None]]) -> None:
    await store.apply(works)


def count_of(url: str, query: str) -> int:
    """Return the number that a query of one row and column gives, from outside of Homing."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text(query)).scalar_one())
    finally:
        engine.dispose()
