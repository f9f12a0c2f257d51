"""If a user file has the name of a Homing package, the import fails with one line."""

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "import tracker; import homing.sandbox; print(homing.sandbox.SandboxSettings().seed, tracker.MINE)"


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("file", ["tracker.py", "receiver.py", "tracker/__init__.py"])
@pytest.mark.parametrize("first", ["", "import tracker, receiver; "], ids=["first", "after theirs"])
@pytest.mark.parametrize("line", ["from homing import Caller", "from homing.serve import Homing"])
def test_shadowing_file_is_named_in_one_line(tmp_path: Path, file: str, first: str, line: str) -> None:
    shadow = tmp_path / file
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text("MINE = 1\n")
    (tmp_path / "shop.py").write_text(f"{first}{line}\n")

    done = run(tmp_path, "shop.py")

    assert done.returncode == 1
    name = file.partition("/")[0].removesuffix(".py")
    said = f"ImportError: {shadow} hides the package `{name}` of Homing. Rename it, or start Python in another folder"
    assert done.stderr.splitlines()[-1] == said


def test_shadowing_file_is_named_by_command(tmp_path: Path) -> None:
    (tmp_path / "tracker.py").write_text("raise SystemExit('it was run')\n")

    done = run(tmp_path, "-m", "homing", "tasks")

    assert done.returncode == 1
    assert "tracker.py hides the package `tracker` of Homing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_sandbox_works_beside_module_of_same_name(tmp_path: Path) -> None:
    """pytest loads the plugin of the sandbox in every test run of every project."""
    (tmp_path / "tracker.py").write_text("MINE = 'theirs'\n")

    done = run(tmp_path, "-c", PLUGIN)

    assert (done.returncode, done.stdout.split()[-1]) == (0, "theirs"), done.stderr
