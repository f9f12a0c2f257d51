"""Run the growth suite on both databases: count the work of each query in a small and in a large store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

from psycopg import RawCursor
from sqlalchemy import Engine, event

from tests.suites.store_growth_suite import LITTLE, MUCH, Question, dear, fill
from tests.support.postgres import Postgres
from tracker.model.changes import Work
from tracker.storage import batch
from tracker.storage.engine.bulk import play
from tracker.storage.engine.database import backend_of
from tracker.storage.engine.sqlite import READERS
from tracker.storage.store import Store

READING = ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")


class Overheard(Store):
    """Run batches where every driver call can be observed."""

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        return await self._database.write(
            lambda connection: play(connection, batch.apply(connection.dialect.name, works))
        )


@asynccontextmanager
async def opened(*urls: str) -> AsyncIterator[list[Store]]:
    stores: list[Store] = [Overheard(url) for url in urls]
    for store in stores:
        await store.open()
        # Connect every reader now, so that connection setup does not count as work of a query.
        await asyncio.gather(*(store.revision() for _ in range(READERS)))
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


@contextmanager
def listening(name: str, listener: Any) -> Iterator[None]:
    event.listen(Engine, name, listener)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


async def test_sqlite_work_ignores_finished_tasks(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("little.db", "much.db")]
    for url, count in zip(urls, (LITTLE, MUCH), strict=True):
        await fill(url, count)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(connection: Any, _record: object) -> None:
        # Each thread's connection reads the schema with its first statement: that is no part of a question's work.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.set_progress_handler(step, 1)

    async def measured(store: Store, question: Question) -> tuple[Any, int]:
        before = steps
        answer = await question(store)
        return answer, steps - before

    with listening("connect", watch):
        async with opened(*urls) as (little, much):
            assert await dear(little, much, measured) == {}


async def test_postgresql_reads_ignore_finished_tasks(postgres: Postgres) -> None:
    urls = [postgres.fresh(), postgres.fresh()]
    for url, count in zip(urls, (LITTLE, MUCH), strict=True):
        await fill(url, count)
    sent: list[tuple[str, Any]] = []
    with listening("connect", noting(sent)):
        async with opened(*urls) as (little, much):
            engines = {store: engine_of(url) for store, url in zip((little, much), urls, strict=True)}
            for engine in engines.values():
                # Put both into the same state, independent of background work of the server.
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql("VACUUM ANALYZE")

            async def measured(store: Store, question: Question) -> tuple[Any, int]:
                sent.clear()
                answer = await question(store)
                assert sent, "the driver got no statement"
                return answer, pages_read(engines[store], list(sent), by_index=store is little)

            assert await dear(little, much, measured) == {}
            for engine in engines.values():
                engine.dispose()


def noting(sent: list[tuple[str, Any]]) -> Callable[[Any, object], None]:
    """Return a listener that makes each connection record its driver calls."""

    class Noting(RawCursor[Any]):
        def execute(self, query: Any, params: Any = None, **how: Any) -> Self:
            if query.startswith(READING):
                sent.append((query, params or ()))
            return super().execute(query, params, **how)

    def watch(connection: Any, _record: object) -> None:
        connection.cursor_factory = Noting

    return watch


def engine_of(url: str) -> Engine:
    return backend_of(url).engine(read_only=False)


def pages_read(engine: Engine, sent: list[tuple[str, Any]], *, by_index: bool) -> int:
    """Run statements once more, for PostgreSQL's own account of them, and leave everything as it was.

    Of a small table it would rather read all than go ``by_index``.
    """
    read = 0
    with engine.connect() as connection:
        for way in ("seqscan", "bitmapscan") if by_index else ():
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        for statement, parameters in sent:
            result = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", tuple(parameters)
            )
            plan = result.scalar_one()[0]["Plan"]
            read += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        connection.rollback()
    return read
