"""An operator handles a failing sink from the shell, on every database: a poison event, and a 410."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.api_keys import LOCAL_SETTING
from tests.support.cli_process import Shell
from tests.support.postgres import Postgres

# Wait between commands. Each one uses much of the CPU that the server needs.
PAUSE = 0.1
EXPECT = ("expect", "kling", "images/omni-image", "--external-id")


@dataclass
class Hook:
    """A threaded webhook endpoint. ``answer`` returns the status for an event, ``got`` has the accepted events."""

    port: int = 0
    answer: Callable[[dict[str, Any]], HTTPStatus] = lambda _: HTTPStatus.OK
    got: list[dict[str, Any]] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> HTTPStatus:
        status = self.answer(event)
        if status is HTTPStatus.OK:
            self.got.append(event)
        return status


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(hook.take(json.loads(body)))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook.port = server.server_port
        running = Thread(target=server.serve_forever)
        running.start()
        yield hook
        server.shutdown()
        running.join()


@pytest.fixture(params=["sqlite", "postgres"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, hook: Hook, kling_sandbox: RunningSandbox) -> Shell:
    settings = {
        "kling_base_url": kling_sandbox.base_url,
        "kling_api_key": kling_sandbox.api_key,
        "first_poll_delay": "10m",
        "allowed_targets": "127.0.0.1",
        "sinks": f"http://127.0.0.1:{hook.port}/hook#name=shop&from=beginning",
    }
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        settings |= {"database_url": postgres.fresh(), "api_keys": LOCAL_SETTING}
    return Shell(tmp_path, settings)


def two_events(shell: Shell, name: str) -> str:
    """Set the provider task ID of a task and finish it. Return Homing's ID."""
    task: dict[str, Any] = shell.run(*EXPECT, name, "--json").document["task"]
    assert shell.run("tasks", "attach", name, f"theirs-{name}").status == 0
    assert shell.run("tasks", "resolve", name, "--status", "rejected").status == 0
    return str(task["id"])


def repeated_until(shell: Shell, *arguments: str, holds: Callable[[Any], bool]) -> Any:
    """Repeat a command until its document matches. The time limit of the test ends the loop."""
    while not holds(document := shell.run(*arguments, "--json").document):
        time.sleep(PAUSE)
    return document


def test_dead_letter_unblocks_later_events_of_task(shell: Shell, hook: Hook) -> None:
    hook.answer = lambda event: HTTPStatus.BAD_REQUEST if event["type"].endswith("updated") else HTTPStatus.OK
    with shell.serving():
        task = two_events(shell, "one")
        pending = repeated_until(
            shell, "deliveries", "--sink", "shop", holds=lambda found: len(found["deliveries"]) == 2
        )
        poison, behind = pending["deliveries"]
        assert (poison["type"], poison["error"]) == ("homing.task.updated", "400 Bad Request")
        assert hook.got == []

        wanted = ("deliveries", "dead-letter", "--event", poison["event_id"])
        assert (
            shell.run("deliveries", "dead-letter").line
            == "homing: no deliveries are selected. Add at least one of --sink, --task and --event"
        )
        assert "no such sink" in shell.run("deliveries", "dead-letter", "--sink", "elsewhere").line
        assert shell.run(*wanted).out == "1 delivery would be dead-lettered. Add --yes to do it\n"
        assert len(shell.run("deliveries", "--pending", "--json").document["deliveries"]) == 2
        assert shell.run("deliveries", "dead-letter", "--task", "one").out.startswith(
            "2 deliveries would be dead-lettered"
        )
        assert shell.run(*wanted, "--yes").out == "1 delivery dead-lettered. See `homing deliveries --dead-letter`\n"

        repeated_until(shell, "deliveries", "--pending", holds=lambda found: found["deliveries"] == [])
        assert [event["id"] for event in hook.got] == [behind["event_id"]]
        (dead,) = shell.run("deliveries", "--dead-letter", "--json").document["deliveries"]
        assert (dead["task_id"], dead["event_id"]) == (task, poison["event_id"])
        assert dead["error"] == "dead-lettered by an operator: 400 Bad Request"
        assert shell.run(*wanted, "--yes", "--json").document == {"count": 0, "dry_run": False}
    # The command works without a server.
    assert shell.run("deliveries", "dead-letter", "--sink", "shop").out == "0 deliveries would be dead-lettered\n"


def test_sink_endpoint_410_shows_until_resumed(shell: Shell, hook: Hook) -> None:
    def state(document: Any) -> Any:
        return next(sink for sink in document["sinks"] if sink["name"] == "shop")

    hook.answer = lambda _: HTTPStatus.GONE
    with shell.serving():
        two_events(shell, "one")
        off = state(repeated_until(shell, "sinks", holds=lambda found: state(found)["state"] == "off"))["off"]
        assert (off["by"], off["why"], off["at"] is None) == ("endpoint", "410 Gone", False)
        line = shell.run("sinks").out.splitlines()[-1]
        assert line.startswith("shop is off, its endpoint refused further events: 410 Gone (")
        assert "homing sinks resume shop" in line
        hook.answer = lambda _: HTTPStatus.OK
        assert shell.run("sinks", "resume", "shop").status == 0
        on = state(repeated_until(shell, "sinks", holds=lambda found: state(found)["delivered"] == 2))
        assert (on["state"], on["off"]) == ("on", None)
        shell.run("sinks", "pause", "shop")
        assert state(shell.run("sinks", "--json").document)["off"]["by"] == "operator"
