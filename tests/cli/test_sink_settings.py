"""Sink settings: `homing serve` refuses invalid sinks, and `homing doctor` explains what is wrong."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homing.server.web_server import address, listen
from tests.support.cli_process import Shell

SECRET = "made-up-secret"
SEEN = "can be reached; nothing was sent"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home", {})


def checks(shell: Shell, **settings: str) -> dict[str, Any]:
    """Return the doctor's findings for each sink, and the active settings."""
    result = shell.run("doctor", "--json", **settings)
    assert SECRET not in result.out + result.err
    document = result.document
    found = {check["name"]: (check["level"], check["detail"]) for check in document["checks"]}
    return {**document["settings"], **found}


@pytest.mark.parametrize(
    ("sinks", "says"),
    [
        (f"gopher://{SECRET}@a.example", "its scheme is unknown. Choose one of https"),
        ("https://a.example#tipe=succeeded", "Did you mean type=?"),
        ("python:nowhere.hooks:notify", "there is no module `nowhere`"),
        ("python:json:nothing", "module `json` has no `nothing`"),
        (f"http://{SECRET}:x@a.example", "must be an https URL"),
    ],
)
def test_serve_invalid_sink_exits_with_status_2(shell: Shell, sinks: str, says: str) -> None:
    result = shell.run("serve", port="0", sinks=sinks)
    assert result.status == 2
    assert says in result.line
    assert "HOMING_SINKS" in result.line
    assert SECRET not in result.line


def test_doctor_checks_each_sink(shell: Shell) -> None:
    with closing(listen("127.0.0.1", 0)) as listener:
        there = address(listener).removeprefix("http://")
        sinks = (
            f"http://user:{SECRET}@{there}/{SECRET}#name=allowed http://127.0.0.1:1/#name=closed "
            "https://nobody.invalid#name=lost python:json:dumps python:json:nothing stdout:"
        )
        found = checks(shell, sinks=sinks, allowed_targets="127.0.0.1/32")
    assert found["sink allowed"] == ("ok", f"http://{there}/… {SEEN}")
    assert found["sink closed"][0] == "note"
    assert "connection refused" in found["sink closed"][1]
    assert found["sink lost"][0] == "note"
    assert "its name cannot be resolved" in found["sink lost"][1]
    assert found["sink json.dumps"] == ("ok", f"python:json:dumps {SEEN}")
    assert found["sink json.nothing"][0] == "wrong"
    assert found["sink stdout"][0] == "ok"
    assert f"allowed (http://{there}/…)" in found["HOMING_SINKS"]
    assert found["HOMING_ALLOWED_TARGETS"] == "127.0.0.1/32"
    assert found["HOMING_SINK_SECRETS"] == "not set"


def test_doctor_reports_forbidden_endpoint(shell: Shell) -> None:
    found = checks(shell, sinks="https://localhost/#name=inward", allowed_targets="10.0.0.0/8")
    level, detail = found["sink inward"]
    assert level == "wrong"
    assert "localhost is refused" in detail
    assert "HOMING_ALLOWED_TARGETS" in detail


def test_doctor_with_invalid_sinks_checks_the_rest(shell: Shell) -> None:
    result = shell.run("doctor", "--json", sinks=f"stdout: gopher://{SECRET}@a.example", deadline="24")

    found = [(check["name"], check["level"]) for check in result.document["checks"]]
    details = [check["detail"] for check in result.document["checks"] if check["name"] == "settings"]
    assert result.status == 1
    assert found == [
        ("settings", "wrong"),
        ("settings", "wrong"),
        ("clients", "ok"),
        ("callback verification", "ok"),
        ("database", "ok"),
        ("public URL", "ok"),
        ("provider credential", "wrong"),
    ]
    assert sorted(detail.partition(":")[0] for detail in details) == ["HOMING_DEADLINE", "HOMING_SINKS"]
    assert result.document["settings"]["HOMING_SINKS"] == "invalid, not used"
    assert SECRET not in result.out + result.err


def test_doctor_with_invalid_database_url_checks_no_database(shell: Shell) -> None:
    result = shell.run("doctor", "--json", database_url="homing.db")

    assert result.status == 1
    assert {"database", "clients"}.isdisjoint(check["name"] for check in result.document["checks"])
