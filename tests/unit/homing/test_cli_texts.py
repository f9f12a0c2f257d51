"""Sentences, tables and lines that commands print. None of them contains terminal control characters."""

import json
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from homing.cli import build_parser
from homing.commands.arguments import moment
from homing.commands.doctor import wide_targets
from homing.commands.why import explain
from homing.terminal import ago, print_fields, print_json, print_table, printable, span
from tracker.model.targets import read_allowed
from tracker.model.untrusted import JsonObject

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def task(**changes: Any) -> JsonObject:
    shown: JsonObject = {
        "id": "hm1",
        "status": "submitted",
        "message": "",
        "reason": None,
        "origin": "submit",
        "provider_task_id": "881",
        "status_source": {"source": "submit", "trust": "provider"},
        "callback_requested": True,
        "poll_count": 0,
        "created_at": "2026-11-23T11:57:00Z",
        "submitted_at": "2026-11-23T11:57:00Z",
        "finished_at": None,
        "last_observed_at": None,
        "polled_at": None,
        "next_poll_at": "2026-11-23T12:00:20Z",
    }
    return shown | changes


def entry(**changes: Any) -> JsonObject:
    shown: JsonObject = {
        "at": "2026-11-23T11:58:00Z",
        "source": "callback",
        "trust": "unverified",
        "provider_status": "succeed",
        "verdict": "unverified",
        "why": "it has no signature",
    }
    return shown | changes


def why(shown: JsonObject, *entries: JsonObject) -> str:
    return "\n".join(explain(shown, entries, NOW))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("open", "polls the provider until it says which is true"),
        ("unanswered", "`homing tasks resolve hm1 --status succeeded`"),
    ],
)
def test_conflict_explains_contradiction_and_who_decides(state: str, says: str) -> None:
    output = why(task(status="failed", conflict=state, conflict_at="2026-11-23T11:57:00Z"))

    assert "Contradictory reports came 3 min ago: that it succeeded, and that it failed." in output
    assert says in output


def test_waiting_task_shows_duration_and_next_poll() -> None:
    output = why(task())
    assert "the provider has had it as 881 for 3 min" in output
    assert "No callback has been received yet." in output
    assert "Homing has not polled the provider yet. The next poll is in 20 s." in output
    assert "`homing tasks poll hm1` polls now" in output


def test_task_without_public_url_says_polling_only() -> None:
    assert "Homing requested no callback" in why(task(callback_requested=False))


def test_unverified_callback_is_shown_with_reason() -> None:
    output = why(task(last_observed_at="2026-11-23T11:58:00Z", poll_count=2, polled_at="2026-11-23T11:59:00Z"), entry())
    assert "The last callback was received 2 min ago with status 'succeed': unverified, it has no signature." in output
    assert "Homing polled the provider 2 times, last 60 s ago. The next poll is in 20 s." in output


def test_overdue_poll_is_due_now() -> None:
    assert "due now" in why(task(next_poll_at="2026-11-23T11:59:00Z"))


def test_unresolved_task_names_each_remedy() -> None:
    output = why(task(status="pending", reason="unresolved", provider_task_id=None, status_source=None))
    for way in ("its own callback", "homing reconcile --discover", "tasks resolve hm1 --provider-task-id", "rejected"):
        assert way in output


def test_expected_task_says_how_to_attach_its_id() -> None:
    output = why(task(status="pending", origin="expect", provider_task_id=None, status_source=None))
    assert "`homing tasks attach hm1 PROVIDER_TASK_ID`" in output


def test_finished_task_shows_source_and_refused_reports() -> None:
    done = task(
        status="succeeded",
        finished_at="2026-11-23T11:59:30Z",
        status_source={"source": "poll", "trust": "provider"},
        next_poll_at=None,
        poll_count=1,
        polled_at="2026-11-23T11:59:30Z",
    )
    output = why(done, entry(verdict="contradicted", why="succeeded has precedence over failed"))
    assert "It succeeded 30 s ago, reported by a poll of trust provider." in output
    assert "A callback 2 min ago was contradicted: succeeded has precedence over failed." in output
    assert "Homing polled the provider once, 30 s ago. No further poll is planned." in output
    assert "unblock" not in output


@pytest.mark.parametrize(("status", "says"), [("expired", "A late one still counts"), ("rejected", "made no task")])
def test_status_set_by_homing_explains_itself(status: str, says: str) -> None:
    assert says in why(task(status=status, finished_at="2026-11-23T11:59:30Z", reason="the deadline passed"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_span_uses_largest_sensible_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_time_is_shown_relative_to_now() -> None:
    assert ago((NOW - timedelta(minutes=5)).isoformat(), NOW) == "5 min ago"
    assert ago((NOW + timedelta(seconds=5)).isoformat(), NOW) == "in 5 s"
    assert ago(None, NOW) == ""


def test_output_never_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    unsafe = "\x1b[2J[bold]red[/bold]\x07\r\nnext\u202e"
    print_table(("task", "message"), [["hm1", unsafe]], empty="none")
    print_fields([("message", unsafe)])
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\r\u202e") & set(shown)
    assert "[bold]red[/bold]" in shown
    assert printable("plain text, ünï, 图") == "plain text, ünï, 图"


def test_pipe_gets_whole_ids(capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"{number:060}" for number in range(3)]
    print_table(("one", "two", "three"), [ids], empty="none")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ids)


def test_empty_table_is_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("one",), [], empty="No tasks.")
    assert capsys.readouterr().out == "No tasks.\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nope"],
        ["tasks", "show"],
        ["tasks", "resolve", "hm1"],
        ["tasks", "resolve", "hm1", "--status", "processing"],
        ["tasks", "list", "--status", "done"],
        ["tasks", "list", "--limit", "0"],
        ["tasks", "--status", "done"],
        ["serve", "--only", "everything"],
        ["serve", "--only", ","],
        ["submit", "--n", "many"],
        ["expect", "kling"],
        ["expect", "kling", "images/omni-image", "--deadline", "soon"],
        ["demo", "--tasks", "-1"],
        ["demo", "--port", "70000"],
    ],
)
def test_misused_command_is_one_line_and_exit_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(argv)
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("homing: ")
    assert captured.err.count("\n") == 1
    assert "--help`" in captured.err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for command in (
        "serve",
        "migrate",
        "sandbox",
        "demo",
        "submit",
        "expect",
        "adopt",
        "tasks",
        "why",
        "reconcile",
        "doctor",
    ):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize(
    "steering",
    ["\x1b[31m", "\x7f", "\x9b31m", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028", "\ufeff", "\U000e0041", "\ud800"],
)
def test_json_escapes_terminal_control_characters(steering: str, capsys: pytest.CaptureFixture[str]) -> None:
    value: JsonObject = {f"key {steering}": [f"a {steering} prompt", "Zürich 東京 \u0301 😀"]}

    print_json(value)

    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert "Zürich 東京" in out


@pytest.mark.parametrize(
    ("written", "noted"),
    [
        ("0.0.0.0/0", "much of the internet"),
        ("::/0", "much of the internet"),
        ("0.0.0.0/1,128.0.0.0/1", "much of the internet"),
        ("2000::/3", "much of the internet"),
        ("169.254.0.0/16", "169.254.169.254"),
        ("10.0.0.0/8,fc00::/7,192.168.1.4,hooks.internal", None),
        ("", None),
    ],
)
def test_doctor_notes_targets_that_are_too_wide(written: str, noted: str | None) -> None:
    found = wide_targets(read_allowed(tuple(filter(None, written.split(",")))))

    assert (noted is None) == (found == [])
    assert all(noted in sentence for sentence in found if noted is not None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-11-23T11:00:00Z", "2026-11-23T11:00:00+00:00"),
        ("2026-11-23 13:00:00+02:00", "2026-11-23T13:00:00+02:00"),
        ("1h30m", "2026-11-23T10:30:00+00:00"),
    ],
)
def test_moment_as_time_or_duration_is_read(text: str, read: str) -> None:
    assert moment(text, lambda: NOW) == read


@pytest.mark.parametrize("text", ["yesterday", "2026-11-23", "2026-11-23T11:00:00", "-1h", ""])
def test_moment_that_is_unclear_names_both_forms(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"2026-11-23T00:00:00Z.*1h30m"):
        moment(text, lambda: NOW)
