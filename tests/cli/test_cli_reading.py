"""Read-only commands work beside a running server, write nothing, and need a known schema."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from homing.server.serving_lock import ServingLock
from tests.migration import first_schema
from tests.support.api_keys import LOCAL_SETTING
from tests.support.builders import a_task, writing
from tests.support.cli_process import Shell
from tests.support.databases import sqlite_url
from tests.support.postgres import Postgres
from tracker.errors import StoreUnavailable
from tracker.storage.store import Store

TASK = a_task(1, external_id="mine")
READING = [
    ("tasks",),
    ("tasks", "list"),
    ("tasks", "show", "mine"),
    ("tasks", "history", "mine"),
    ("why", "mine"),
    ("events",),
    ("sinks",),
    ("deliveries",),
    ("stats",),
    ("orphans",),
    ("callback-url",),
    ("callback-url", "list"),
    ("audit",),
]
WRITER = """
import asyncio, sys
from tests.support.builders import a_task
from tests.support.builders import writing
from tracker.storage.store import Store
async def main():
    store = Store(sys.argv[1])
    await store.open()
    await store.apply([writing(a_task(1, external_id="mine"))])
    print("written", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def fill(url: str) -> None:
    store = Store(url)
    await store.open()
    await store.apply([writing(TASK)])
    await store.close()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {"kling_base_url": "http://127.0.0.1:9", "database_url": sqlite_url(tmp_path)})
    asyncio.run(fill(shell.settings["database_url"]))
    return shell


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        yield postgres.fresh()


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_read_command_works_beside_locked_database(shell: Shell, arguments: tuple[str, ...]) -> None:
    file = shell.directory / "homing.db"
    before = file.read_bytes()

    with ServingLock(file):
        result = shell.run(*arguments, "--json")

    assert (result.status, result.err) == (0, "")
    assert file.read_bytes() == before


def test_read_command_takes_no_lock(shell: Shell) -> None:
    (shell.directory / "homing.db.lock").unlink(missing_ok=True)

    assert shell.run("tasks", "--json").document["tasks"][0]["external_id"] == "mine"

    assert not (shell.directory / "homing.db.lock").exists()


def test_read_command_sees_running_server_commits(shell: Shell) -> None:
    with shell.serving():
        made = shell.run("expect", "kling", "images/omni-image", "--external-id", "new", "--json")
        assert made.status == 0, made.err

        shown = shell.run("tasks", "show", "new", "--json")

    assert shown.document["id"] == made.document["task"]["id"]


def test_read_command_sees_killed_process_commits(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)

    result = Shell(tmp_path, {"database_url": url}).run("tasks", "--json")

    assert [task["external_id"] for task in result.document["tasks"]] == ["mine"]


def test_outdated_schema_error_says_what_to_do(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {})
    asyncio.run(first_schema.populate(shell.settings["database_url"]))

    result = shell.run("tasks")

    assert result.status == 1
    assert "the database has the schema 0001, this version needs " in result.line
    assert "Run `homing migrate`" in result.line
    assert shell.run("migrate").status == 0
    assert shell.run("tasks").status == 0


def test_file_without_tables_error_says_what_to_do(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "homing.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")

    result = Shell(tmp_path, {}).run("tasks")

    assert result.status == 1
    assert "the database has no tables yet. Run `homing migrate`" in result.line


def test_file_with_two_names_is_refused(shell: Shell) -> None:
    (shell.directory / "other.db").hardlink_to(shell.directory / "homing.db")

    result = shell.run("tasks")

    assert result.status == 2
    assert "hard links" in result.line


def test_outdated_postgresql_schema_is_one_line(tmp_path: Path, postgres: Postgres) -> None:
    shell = Shell(tmp_path, {"database_url": postgres.fresh(migrated=False), "api_keys": LOCAL_SETTING})

    result = shell.run("tasks")

    assert result.status == 1
    assert "the database has no tables yet. Run `homing migrate`" in result.line


async def test_read_only_store_writes_nothing(url: str) -> None:
    await fill(url)
    store = Store(url)
    await store.open_read_only()
    try:
        assert await store.tasks.get(TASK.id) is not None
        with pytest.raises(StoreUnavailable):
            await store.apply([writing(a_task(2))])
        with pytest.raises(StoreUnavailable):
            await store.secrets.get("name", b"secret")
    finally:
        await store.close()


def test_read_command_skips_alembic_and_http_imports(shell: Shell) -> None:
    code = (
        "import sys; from homing.cli import main\n"
        "status = main(['tasks', '--json'], environ={'HOMING_DATABASE_URL': sys.argv[1]}, env_file=None)\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(status, sorted(loaded & {'alembic', 'httpx', 'httpcore', 'uvicorn', 'receiver', 'jwt', 'psycopg'}))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, shell.settings["database_url"]],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert ended.stdout.splitlines()[-1] == "0 []"
