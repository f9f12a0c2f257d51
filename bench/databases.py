"""Empty databases for a benchmark: SQLite files in its folder, or databases of one PostgreSQL server."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import create_engine, text

from tracker.model.changes import Change, RecordChange, Work
from tracker.storage.store import Store

CHANGES_PER_TRANSACTION: Final = 1_000


class Databases(Protocol):
    """A place in which to create databases. ``name`` is part of the keys of the results."""

    @property
    def name(self) -> str: ...

    def fresh(self, name: str) -> str:
        """Create an empty database. Return its URL in the form of HOMING_DATABASE_URL."""

    def analyse(self, url: str) -> None:
        """Update the statistics of the planner, as the autovacuum of a server does within a minute."""


class SqliteFiles:
    """Files in one folder."""

    name: Final = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def fresh(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}_{next(self._numbers)}.db"

    def analyse(self, url: str) -> None:
        """Do nothing, because usually no program does this to a SQLite file."""


def migrated(databases: Databases, name: str) -> str:
    """Create a database with Homing's schema and return its URL."""
    url = databases.fresh(name)
    asyncio.run(Store(url).migrate())
    return url


def write(url: str, changes: Iterable[Change[None]]) -> None:
    """Write many rows in the same way as Homing, a thousand changes per transaction."""
    asyncio.run(_write(url, iter(changes)))


async def _write(url: str, changes: Iterator[Change[None]]) -> None:
    store = Store(url)
    await store.open()
    try:
        async with asyncio.TaskGroup() as writing:
            last = writing.create_task(asyncio.sleep(0))
            while works := [RecordChange(change) for change in islice(changes, CHANGES_PER_TRANSACTION)]:
                await last
                # A thread of the store writes these changes while this loop creates the next ones.
                last = writing.create_task(_apply(store, works))
                await asyncio.sleep(0)
    finally:
        await store.close()


async def _apply(store: Store, works: Sequence[Work[None]]) -> None:
    await store.apply(works)


def count_of(url: str, query: str) -> int:
    """Return the number from a query with one row and one column, on a connection outside of Homing."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text(query)).scalar_one())
    finally:
        engine.dispose()
