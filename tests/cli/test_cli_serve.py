"""`homing serve`, as a process, and `homing doctor`."""

import os
import pty
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from homing.sandbox import RunningSandbox
from tests.support.brokers.servers import free_port
from tests.support.cli_process import Shell

MARKED = {
    "api_keys": "studio*:marked-api-key-one",
    "client_keys": "signer:marked-client-secret-of-at-least-32-bytes",
    "callback_secrets": "marked-callback-secret-of-at-least-32-bytes",
    "kling_webhook_secrets": "whsec_bWFya2VkLXdlYmhvb2stc2VjcmV0LTMyLWJ5dGVzISE=",
}


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionError:
        return False
    return True


@pytest.fixture
def shell(tmp_path: Path, kling_sandbox: RunningSandbox) -> Shell:
    return Shell(tmp_path, {"kling_base_url": kling_sandbox.base_url, "kling_api_key": kling_sandbox.api_key})


def test_serve_prints_one_startup_line(shell: Shell) -> None:
    with shell.serving() as served:
        assert "homing.db" in served.line
        assert "no callbacks requested" in served.line
        assert f"API key in {shell.directory / 'homing.db.key'}" in served.line
        assert httpx.get(f"{served.url}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{served.url}/readyz", trust_env=False).json()["ready"] is True
    with shell.serving(
        public_url="https://homing.example.com", api_keys="a:made-up-first-key,b:made-up-second-key"
    ) as served:
        assert "callbacks at https://homing.example.com" in served.line
        assert "2 keys" in served.line
        assert "credential" not in served.line
    with shell.serving(kling_api_key="") as served:
        assert "no provider credential" in served.line
        assert "HOMING_KLING_API_KEY" in served.line


def test_serve_without_keys_requires_generated_key(shell: Shell) -> None:
    """A request from a local reverse proxy looks like one from a local user: it has a loopback Host header."""
    with shell.serving() as served, httpx.Client(base_url=served.url, trust_env=False) as http:
        assert served.process.stdout is not None
        made = served.process.stdout.readline()
        statuses = [http.get(path).status_code for path in ("/v1/tasks", "/v1/stats", "/kling/v1/images/omni-image")]
        statuses += [http.post("/kling/v1/images/omni-image", json={"prompt": "a cat"}).status_code]
        with_key = http.get("/v1/tasks", headers={"authorization": f"Bearer {shell.key}"})
        task = shell.run("expect", "kling", "images/omni-image", "--json").document["task"]

    assert statuses == [401] * 4
    assert with_key.status_code == 200
    assert task["client"] == "local"
    assert made == f"Made an API key, kept in {shell.directory / 'homing.db.key'}\n"
    assert shell.key not in served.line + made + served.errors.read_text()


def test_serve_on_terminal_shows_key_in_curl_line(shell: Shell) -> None:
    leader, follower = pty.openpty()
    with shell.begin("serve", stdout=follower) as process, os.fdopen(leader) as screen:
        os.close(follower)
        line, made = screen.readline(), screen.readline()
        process.terminate()

    curl = f'curl {line.split()[2]}/v1/tasks -H "Authorization: Bearer {shell.key}"'
    assert made.strip() == f"Made an API key, kept in {shell.directory / 'homing.db.key'}: {curl}"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_signal_stops_and_frees_database(shell: Shell, number: signal.Signals, status: int) -> None:
    with shell.serving() as served:
        served.process.send_signal(number)
        assert served.process.wait(timeout=30) == status
        assert "Traceback" not in served.errors.read_text()
    assert shell.run("tasks").out == "No tasks.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_serve_stop_finishes_running_request(shell: Shell, number: signal.Signals) -> None:
    body = b'{"provider": "kling", "kind": "images/omni-image"}'
    with shell.serving(api_keys="studio:made-up-key-of-the-studio-for-tests") as served:
        where = urlsplit(served.url)
        with socket.create_connection((where.hostname, where.port), timeout=30) as line:
            line.sendall(
                b"POST /v1/tasks/expect HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                b"authorization: Bearer made-up-key-of-the-studio-for-tests\r\nexpect: 100-continue\r\n"
                b"content-length: %d\r\n\r\n" % len(body)
            )
            assert b" 100 " in line.recv(1 << 16), "the body is waited for"
            served.process.send_signal(number)
            while is_open(where.port or 0):
                time.sleep(0.01)
            line.sendall(body)
            assert b" 201 " in line.recv(1 << 16)
        assert served.process.wait(timeout=30) == 0


def test_serve_survives_closed_standard_streams(shell: Shell) -> None:
    port = free_port()
    with shell.begun_without_streams(port) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            answered = 0
            while answered < 20:
                assert process.poll() is None, "it ended by itself"
                try:
                    answered += client.get("/readyz", headers={"connection": "close"}).is_success
                except httpx.ConnectError:
                    time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_serve_callback_finishes_task_over_http(shell: Shell) -> None:
    port = free_port()
    with shell.serving(port=str(port), public_url=f"http://127.0.0.1:{port}", first_poll_delay="10m"):
        task = shell.run("submit", "--prompt", "a cat", "--wait", "--json").document
        assert task["status"] == "succeeded"
        assert task["status_source"] == {"source": "callback", "trust": "token"}
        assert task["callback_requested"] is True
        made = shell.run("callback-url", "create", "kling", "--label", "console", "--json", port=str(port)).document
        assert made["callback_url"].startswith(f"http://127.0.0.1:{port}/callbacks/kling/s")
        listed = shell.run("callback-url", "list", "--json").document["callback_urls"]
        assert [address["label"] for address in listed] == ["console"]
        body = {"task_id": "unknown-1", "task_status": "submitted", "task_result": {}}
        assert httpx.post(made["callback_url"], json=body, trust_env=False).status_code == 200
        assert "unknown-1" in shell.run("orphans").out
        assert shell.run("callback-url", "revoke", str(listed[0]["id"])).status == 0
        assert httpx.post(made["callback_url"], json=body, trust_env=False).status_code == 404


def test_second_server_is_refused_naming_the_first(shell: Shell) -> None:
    with shell.serving() as served:
        for arguments in (("serve",), ("serve", "--only", "receiver"), ("serve", "--only", "api,loops")):
            second = shell.run(*arguments, port="0")
            assert second.status == 2
            assert served.url in second.line
        migrating = shell.run("migrate")
        assert migrating.status == 1
        assert "Stop it first" in migrating.line
        reconciling = shell.run("reconcile", "--once")
        assert reconciling.status == 1
        assert "already reconciles" in reconciling.line


def test_serve_deletes_tasks_past_retention(shell: Shell) -> None:
    ended = shell.run("submit", "--prompt", "a cat", "--wait", "--json", first_poll_delay="500ms").document
    open_one = shell.run("expect", "kling", "images/omni-image", "--json").document["task"]
    with closing(sqlite3.connect(shell.directory / "homing.db", isolation_level=None)) as database:
        hour = 3600 * 1_000_000
        database.execute("UPDATE tasks SET finished_at = finished_at - ? WHERE finished_at IS NOT NULL", [hour])
    refused = shell.run("serve", port="0", retention="59m")
    assert refused.status == 2
    assert "HOMING_RETENTION: the value is too short. Write an hour or longer" in refused.line
    with shell.serving(retention="1h"):
        for _ in range(400):
            left = [task["id"] for task in shell.run("tasks", "--json").document["tasks"]]
            if ended["id"] not in left:
                break
    assert left == [open_one["id"]]


def test_serve_taken_port_exits_with_status_2(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = shell.run("serve", port=str(taken.getsockname()[1]))
    assert result.status == 2
    assert "set another HOMING_PORT" in result.line


@pytest.mark.parametrize(
    "settings",
    [{"api_keys": "a:short"}, {"client_keys": "a:thirty-one-bytes-are-not-enough"}, {"host": "no-such-host.invalid"}],
)
def test_serve_unusable_settings_are_refused(shell: Shell, settings: dict[str, str]) -> None:
    result = shell.run("serve", port="0", **settings)
    assert result.status == 2
    assert "HOMING_" in result.line


def test_serve_output_holds_no_secret(shell: Shell) -> None:
    secrets = [value.split(":")[-1] for value in MARKED.values()]
    port = free_port()
    everything = []
    with shell.serving(port=str(port), public_url=f"http://127.0.0.1:{port}", log_level="debug", **MARKED) as served:
        task = shell.run("submit", "--prompt", "a cat", "--wait", "--json", **MARKED)
        arguments = [["doctor"], ["doctor", "--json"], ["tasks", "--json"], ["stats"], ["why", task.document["id"]]]
        arguments += [["tasks", "history", task.document["id"], "--json"], ["tasks", "show", task.document["id"]]]
        for result in (task, *(shell.run(*each, **MARKED) for each in arguments)):
            assert result.status == 0, result.err
            everything += [result.out, result.err]
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(timeout=30)
        everything += [served.line, served.errors.read_text()]
    shown = "\n".join(everything)
    assert "/callbacks/" in shown  # the log's route template
    assert "/callbacks/kling/1" not in shown
    assert not [logger for logger in (" httpx ", " httpcore", " uvicorn.access ") if logger in shown]
    assert [secret for secret in [*secrets, "sandbox-api-key"] if secret in shown] == []


def test_doctor_accepts_valid_settings(shell: Shell) -> None:
    result = shell.run("doctor", "--json")
    assert result.status == 0
    assert result.document["settings"]["HOMING_KLING_API_KEY"] == "set"
    assert {check["name"]: check["level"] for check in result.document["checks"]}["provider credential"] == "ok"
    assert not (shell.directory / "homing.db").exists()


@pytest.mark.parametrize(
    ("settings", "check", "says"),
    [
        ({"kling_api_key": "not-the-key"}, "provider credential", "refuses it"),
        ({"kling_api_key": ""}, "provider credential", "Set HOMING_KLING_API_KEY"),
        ({"kling_base_url": "http://127.0.0.1:9"}, "provider credential", "connection refused"),
        ({"database_url": "sqlite:///absent/homing.db"}, "database", "not a writable directory"),
    ],
)
def test_doctor_reports_problems(shell: Shell, settings: dict[str, str], check: str, says: str) -> None:
    result = shell.run("doctor", "--json", **settings)
    assert result.status == 1
    wrong = {found["name"]: found["detail"] for found in result.document["checks"] if found["level"] == "wrong"}
    assert list(wrong) == [check]
    assert says in wrong[check]


def test_doctor_notes_surprising_settings(shell: Shell) -> None:
    odd = {"api_key": "misspelt", "min_final_trust": "signed", "public_url": "http://127.0.0.1:9"}
    notes = [
        found["detail"] for found in shell.run("doctor", "--json", **odd).document["checks"] if found["level"] == "note"
    ]
    for sentence in ("Did you mean HOMING_API_KEYS", "no callback ends a task", "does not answer"):
        assert any(sentence in note for note in notes), notes


def test_doctor_notes_public_url_out_of_providers_reach(shell: Shell) -> None:
    settings = {"kling_base_url": "https://provider.invalid", "public_url": "http://127.0.0.1:9"}
    checks = shell.run("doctor", "--json", **settings).document["checks"]

    found = {check["name"]: (check["level"], check["detail"]) for check in checks}
    level, detail = found["public URL"]
    assert level == "note"
    assert "provider.invalid cannot send callbacks" in detail
