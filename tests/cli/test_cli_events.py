"""Watch and operate from the shell, with and without a running server."""

import json
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homing.sandbox import RunningSandbox
from tests.support.cli_process import Shell

EXPECT = ("expect", "kling", "images/omni-image", "--external-id")


@pytest.fixture
def shell(tmp_path: Path, kling_sandbox: RunningSandbox) -> Shell:
    return Shell(
        tmp_path,
        {
            "kling_base_url": kling_sandbox.base_url,
            "kling_api_key": kling_sandbox.api_key,
            "first_poll_delay": "500ms",
            "sinks": "python:builtins:repr#name=lines&type=expired python:builtins:id#name=hook&from=beginning",
        },
    )


def an_end(shell: Shell, name: str, status: str = "rejected") -> str:
    task: dict[str, Any] = shell.run(*EXPECT, name, "--tag", name, "--json").document["task"]
    assert shell.run("tasks", "resolve", name, "--status", status).status == 0
    return str(task["id"])


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def first_cursor(shell: Shell) -> str:
    with closing(sqlite3.connect(shell.directory / "homing.db")) as database:
        return str(database.execute("SELECT min(id) FROM events").fetchone()[0])


def stopped(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    return errors


@pytest.mark.parametrize("served", [True, False])
def test_stored_events_are_printed_and_filtered(shell: Shell, served: bool) -> None:  # noqa: FBT001 - a parameter
    def look() -> None:
        ids = [an_end(shell, "one"), an_end(shell, "two", "expired")]
        found = lines(shell.run("events", "--json").out)
        assert [(event["type"], event["subject"]) for event in found] == [
            ("homing.task.rejected", ids[0]),
            ("homing.task.expired", ids[1]),
        ]
        assert ids[1] in shell.run("events", "--type", "expired").out
        assert shell.run("events", "--type", "expired", "--tag", "one").out == ""
        assert len(lines(shell.run("events", "--after", first_cursor(shell), "--json").out)) == 1
        assert len(lines(shell.run("events", "--task", "two", "--json").out)) == 1
        wrong = shell.run("events", "--type", "expird")
        assert (wrong.status, "Did you mean expired?" in wrong.line) == (1, True)
        assert "410" not in shell.run("events", "--after", str(2**62)).line

    if served:
        with shell.serving():
            look()
    else:
        look()


def test_follow_resumes_after_server_restart(shell: Shell) -> None:
    with shell.serving() as first:
        reading_events = shell.begin("events", "--follow", "--json", "--after", "0")
        assert reading_events.stdout is not None
        one = an_end(shell, "one")
        assert json.loads(reading_events.stdout.readline())["subject"] == one
    port = first.url.rpartition(":")[2]
    with shell.serving(port=port):
        two = an_end(shell, "two")
        assert json.loads(reading_events.stdout.readline())["subject"] == two
        assert "Trying again" in stopped(reading_events)


def test_follow_without_server_shows_events(shell: Shell) -> None:
    shell.run("submit", "--prompt", "a cat")
    reading_events = shell.begin("events", "--follow", "--json", "--after", "0")
    assert reading_events.stdout is not None
    types: list[str] = []
    while types[-1:] != ["homing.task.succeeded"]:
        types.append(json.loads(reading_events.stdout.readline())["type"])
    assert types[0] == "homing.task.submitted"
    stopped(reading_events)


def test_watch_exit_status_reflects_task_results(shell: Shell) -> None:
    task = shell.run("submit", "--prompt", "a cat", "--json").document
    with shell.serving():
        watched = shell.run("tasks", "watch", task["id"])
        assert (watched.status, "succeeded" in watched.out) == (0, True)
        an_end(shell, "never sent")
        both = shell.run("tasks", "watch", task["id"], "never sent")
        assert both.status == 1
        assert both.out.count("\n") == 2


def test_watch_all_prints_tasks_then_changes(shell: Shell) -> None:
    with shell.serving():
        one = an_end(shell, "one")
        watching = shell.begin("tasks", "watch")
        assert watching.stdout is not None
        assert one in watching.stdout.readline()
        two = an_end(shell, "two")
        assert f"{two}  rejected" in watching.stdout.readline()
        stopped(watching)


def test_sinks_are_listed_paused_resumed_and_replayed(shell: Shell) -> None:
    shell.run("migrate")
    assert "HOMING_SINKS" in shell.run("sinks").out
    with shell.serving():
        an_end(shell, "one")
        sinks = {sink["name"]: sink for sink in shell.run("sinks", "--json").document["sinks"]}
        assert set(sinks) == {"callbacks", "lines", "hook"}
        assert (sinks["hook"]["state"], sinks["hook"]["configured"]) == ("on", True)
        assert "python:builtins:id" in shell.run("sinks").out
        assert "is paused" in shell.run("sinks", "pause", "hook").out
        assert next(s for s in shell.run("sinks", "--json").document["sinks"] if s["name"] == "hook")["state"] == "off"
        assert "without the events that it missed" in shell.run("sinks", "resume", "hook", "--from-now").out
        assert "HOMING_SINKS" in shell.run("sinks", "delete", "hook").line
        assert shell.run("sinks", "pause", "nobody").status == 1
        assert shell.run("sinks", "secret", "callbacks", "--client", "studio").out.startswith("whsec_")
        assert "Choose the client with --client NAME" in shell.run("sinks", "secret", "callbacks").line
        assert "does not sign" in shell.run("sinks", "secret", "hook").line
        assert "No dead letters." in shell.run("deliveries", "--dead-letter", "--sink", "lines").out
        dry = shell.run("replay", "hook", "--task", "one")
        assert "Add --yes" in dry.out
        assert shell.run("replay", "hook", "--task", "one", "--yes", "--json").document["dry_run"] is False
        assert "Add at least one of --task, --since, --until and --dead-letter" in shell.run("replay", "hook").line
        assert "no sink" in shell.run("replay", "elsewhere", "--dead-letter").line
