"""`homing demo`: the whole system over real HTTP, checked against the sandbox's ledger."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

DEMO = (sys.executable, "-m", "homing", "demo")


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*DEMO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_demo_finishes_every_task_and_counts_its_lines() -> None:
    # Each takes 20 seconds, mostly of waiting.
    with run("--json", "--tasks", "20", "--seed", "51") as as_json, run("--tasks", "20", "--seed", "7") as as_text:
        check_summary(*as_json.communicate(timeout=110))
        check_lines(*as_text.communicate(timeout=110))
    assert (as_json.returncode, as_text.returncode) == (0, 0)


def check_summary(output: str, errors: str) -> None:
    assert errors == ""
    summary = json.loads(output)
    assert (summary["lost"], summary["doubled"], summary["wrong"]) == (0, 0, 0), summary
    assert sum(summary["first_reported_by"].values()) == summary["finished"] == summary["orders"] == 20
    assert summary["first_reported_by"].keys() == {"callback", "poll"}
    assert 0 < summary["recovered_submits"] <= 20
    assert summary["forgeries"]["sent"] > 0
    assert summary["forgeries"]["sent"] == summary["forgeries"]["refused"] + summary["forgeries"]["unverified"]
    assert summary["duplicates_absorbed"] > 0


def check_lines(output: str, errors: str) -> None:
    assert errors == ""
    lines = re.findall(
        r"^ +\d+\.\d s  task \d\d  (?:succeeded|failed), first reported by (\w+)  \(", output, re.MULTILINE
    )
    assert len(lines) == 20, output
    assert "finished      20 of 20" in output
    summary = {name: int(count) for count, name in re.findall(r"(\d+) by (\w+)", output)}
    assert summary == Counter(lines)
    assert "lost 0, doubled 0, wrong 0" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_can_stay_open(number: signal.Signals, tmp_path: Path) -> None:
    command = [*DEMO, "--tasks", "1", "--seed", "7", "--keep-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            curl = next(line for line in process.stdout if "curl " in line)
            _, url, _, header = shlex.split(curl)
            tasks = httpx.get(url, headers=dict([header.split(": ")]), trust_env=False).json()["tasks"]
            assert [task["status"] for task in tasks] in (["succeeded"], ["failed"])
            process.send_signal(number)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_demo_interrupt_leaves_no_traceback() -> None:
    with subprocess.Popen(
        [*DEMO, "--tasks", "8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=40)
    assert process.returncode == 130
    assert errors == ""
