"""The commands with PostgreSQL: the schema, many concurrent processes, and server roles in separate processes."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.migration import first_schema
from tests.reconciler.test_membership import away
from tests.support.api_keys import LOCAL_HEADERS, LOCAL_SETTING
from tests.support.cli_process import Shell
from tests.support.postgres import Postgres
from tracker.storage import migrations

PASSWORD = "made-up-database-password"
NEWEST = max(path.name[:4] for path in Path(migrations.__file__).parent.glob("versions/0*.py"))


@pytest.fixture
def settings(kling_sandbox: RunningSandbox) -> dict[str, str]:
    return {
        "kling_base_url": kling_sandbox.base_url,
        "kling_api_key": kling_sandbox.api_key,
        "first_poll_delay": "500ms",
        "api_keys": LOCAL_SETTING,
    }


@pytest.fixture
def empty(tmp_path: Path, postgres: Postgres, settings: dict[str, str]) -> Shell:
    return Shell(tmp_path, settings | {"database_url": postgres.fresh(migrated=False)})


@pytest.fixture
def shell(tmp_path: Path, postgres: Postgres, settings: dict[str, str]) -> Shell:
    return Shell(tmp_path, settings | {"database_url": with_password(postgres.fresh())})


def with_password(url: str) -> str:
    """Add a password. The database server does not check it, and no output may show it."""
    return url.replace("postgres@", f"postgres:{PASSWORD}@")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_missing_driver_error_names_install_command(empty: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    result = empty.run("serve", port="0")
    assert result.status == 2
    assert "pip install '.[postgres]'" in result.line


def test_serve_without_keys_names_key_command(empty: Shell) -> None:
    result = empty.run("serve", port="0", api_keys="")
    assert result.status == 2
    assert "`homing key" in result.line
    assert "HOMING_API_KEYS" in result.line


def test_empty_database_error_names_migrate_command(empty: Shell) -> None:
    refused = empty.run("serve", port="0")
    assert refused.status == 1
    assert "no tables yet. Run `homing migrate`" in refused.line
    document = empty.run("migrate", "--json").document
    assert document["before"] is None
    assert empty.run("migrate").out.endswith(f"schema {document['after']} is up to date. Nothing was changed\n")
    assert empty.run("tasks").out == "No tasks.\n"


def test_first_release_database_migrates_with_rows(empty: Shell) -> None:
    asyncio.run(first_schema.populate(empty.settings["database_url"]))
    before = first_schema.rows(empty.settings["database_url"])
    refused = empty.run("serve", port="0")
    assert refused.status == 1
    assert "Run `homing migrate`" in refused.line
    assert empty.run("doctor").status == 1
    assert "migrated from schema 0001 to" in empty.run("migrate").out
    assert first_schema.kept(before, first_schema.rows(empty.settings["database_url"]))
    assert empty.run("tasks", "show", "order-1", "--json").document["id"] == first_schema.TASK.id


def test_concurrent_migrations_run_once(empty: Shell) -> None:
    running = [empty.begin("migrate"), empty.begin("migrate")]
    lines = sorted(process.communicate(timeout=60)[0].split(": ", 1)[1] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert [line.split(",")[0].split(" is ")[0] for line in lines] == [f"schema {NEWEST}", "the tables were created"], (
        lines
    )


def test_commands_and_reconcilers_run_beside_servers(shell: Shell) -> None:
    with shell.serving() as served:
        task = shell.run("submit", "--prompt", "a cat", "--wait", "--json").document
        assert task["status"] == "succeeded"
        seen = httpx.get(f"{served.url}/v1/tasks/{task['id']}", headers=LOCAL_HEADERS, trust_env=False).json()
        assert seen["status"] == "succeeded"
        assert shell.run("reconcile", "--once").status == 0
        doctor = {check["name"]: check["detail"] for check in shell.run("doctor", "--json").document["checks"]}
        assert f"schema {NEWEST}" in doctor["database"]
        assert doctor["database clock"] == "agrees with this machine's"
        assert doctor["servers"].startswith(f"process {served.process.pid} on ")
    assert shell.run("reconcile", "--discover", "--kind", "images/omni-image", "--json").document["known"] == 1


def test_server_roles_run_separately(shell: Shell) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    # No process polls before the callback arrives.
    shell.settings["first_poll_delay"] = "10m"
    statuses: dict[str, tuple[int, ...]] = {}
    with (
        shell.serving("--only", "receiver", port=str(port), host="0.0.0.0", public_url=public) as receiver,
        shell.serving("--only", "api", public_url=public) as api,
        shell.serving("--only", "loops", public_url=public) as loops,
    ):
        task = shell.run("submit", "--prompt", "a cat", "--wait", "--json", api_url=api.url).document
        assert (task["status"], task["status_source"]["source"]) == ("succeeded", "callback")
        address = shell.run("callback-url", "create", "kling", "--json", api_url=api.url).document["callback_url"]
        path = address.removeprefix(public)
        body = {"task_id": "foreign-1", "task_status": "submitted", "task_result": {}}
        with httpx.Client(trust_env=False, headers=LOCAL_HEADERS) as http:
            for name, served in (("receiver", receiver), ("api", api), ("loops", loops)):
                paths = ("/healthz", "/readyz", "/v1/tasks", "/openapi.json", "/kling/v1/images/omni-image")
                asked = [http.get(f"{served.url}{each}").status_code for each in paths]
                statuses[name] = (*asked, http.post(f"{served.url}{path}", json=body).status_code)
        assert "only receiver" in receiver.line
        assert "only loops" in loops.line
        for served in (receiver, api, loops):
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(timeout=30) == 0
    assert statuses == {
        "receiver": (200, 404, 404, 404, 404, 200),
        "api": (200, 200, 200, 200, 200, 404),
        "loops": (200, 200, 404, 404, 404, 404),
    }


def test_database_outage_is_red_without_password(postgres: Postgres, shell: Shell) -> None:
    url = shell.settings["database_url"].replace(f":{PASSWORD}", "")
    output = []
    with shell.serving(log_level="debug") as served, httpx.Client(base_url=served.url, trust_env=False) as http:
        with away(postgres, url):
            while (answer := http.get("/readyz")).is_success:
                pass
            output += [answer.text, shell.run("tasks").err, shell.run("doctor").out, shell.run("migrate").err]
        assert answer.json()["checks"][0]["detail"].startswith("the database")
        while not http.get("/readyz").is_success:
            pass
        output += [served.line, served.errors.read_text(), shell.run("doctor", "--json").out]
    assert [text for text in output if PASSWORD in text] == []
