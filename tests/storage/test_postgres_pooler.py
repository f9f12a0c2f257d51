"""PgBouncer in front of PostgreSQL: refused where it moves sessions about, of use where it does not."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from tests.suites.store_case import changing
from tests.support.builders import a_task, writing
from tests.support.conditions import until
from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.storage.store import Store

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CONFIGURATION = """
[databases]
{database} = host={socket} user=postgres
[pgbouncer]
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = 8
{more}
"""

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed (Debian: apt install pgbouncer)")


@contextmanager
def pooled(postgres: Postgres, url: str, mode: str, more: str = "") -> Iterator[str]:
    """Run PgBouncer in front of a database; gives the address."""
    database, socket = url.rpartition("?")[0].rpartition("/")[2], url.partition("host=")[2]
    with TemporaryDirectory(prefix="homing-pgbouncer-") as name:
        folder = Path(name)
        text = CONFIGURATION.format(database=database, socket=socket, folder=folder, mode=mode, more=more)
        (folder / "bouncer.ini").write_text(text)
        (folder / "users").write_text('"postgres" ""\n')
        folder.chmod(0o777)
        # It refuses to run as root.
        user = ["-u", str(postgres.system_user)] if os.getuid() == 0 else []
        command = [str(PROGRAM), "-q", *user, str(folder / "bouncer.ini")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield f"postgresql://postgres@/{database}?host={folder}&port=6432"
            finally:
                process.terminate()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Lock every task."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM tasks FOR UPDATE")
        yield


async def answers(url: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(url)).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize(
    ("mode", "more"),
    [("transaction", ""), ("transaction", "server_round_robin = 1"), ("statement", "")],
)
async def test_transaction_pooler_is_refused_by_name(postgres: Postgres, mode: str, more: str) -> None:
    url = postgres.fresh()
    with pooled(postgres, url, mode, more) as through:
        await until(lambda: answers(through))
        if more:
            # The pool hands out several sessions in turn.
            many = [await psycopg.AsyncConnection.connect(through) for _ in range(3)]
            for each in many:
                await each.execute("SELECT 1")
            for each in many:
                await each.close()

        for use in (Store(through).open, Store(through).migrate):
            with pytest.raises(StoreUnavailable, match=r"pooler \(such as PgBouncer\).* session mode") as refused:
                await use()
            assert "\n" not in refused.value.detail

        with psycopg.connect(through, autocommit=True) as next_one:
            assert next_one.execute("SHOW lock_timeout").fetchone() == ("0",), "a setting was left in the pool"


async def test_session_pooler_gets_homing_settings(postgres: Postgres) -> None:
    url = postgres.fresh()
    with pooled(postgres, url, "session") as through:
        await until(lambda: answers(through))
        store = Store(through, busy=timedelta(milliseconds=50))

        await store.open()
        await store.apply([writing(a_task())])

        assert await store.tasks.get(a_task().id) == a_task()
        with locked(url), pytest.raises(StoreUnavailable, match="locked for too long"):
            await store.apply([changing(a_task(), version=2)])
        await store.close()


async def test_full_session_pool_is_not_transaction_pooler(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.storage.engine.pooler.SECONDS", 0.2)
    url = postgres.fresh()
    with pooled(postgres, url, "session", "max_db_connections = 1") as through:
        await until(lambda: answers(through))
        store = Store(through)

        # One session is enough to migrate.
        assert (await store.migrate()).after is not None


async def test_pooler_refusal_names_the_pooler(postgres: Postgres) -> None:
    url = postgres.fresh()
    with pooled(postgres, url, "session") as through:
        await until(lambda: answers(through))
        elsewhere = through.replace("/test_", "/absent_")

        with pytest.raises(StoreUnavailable, match="pooler in front of the database refuses"):
            await Store(elsewhere).open()
