"""A planted violation breaks exactly one import contract."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
PACKAGES: Final = ("receiver", "tracker", "homing")
# For each contract: a module and an import that is forbidden in it.
PLANTED: Final = {
    "1 homing on receiver on tracker": ("tracker/model/changes.py", "import receiver.errors"),
    "2 floors of tracker": ("tracker/storage/rows.py", "import tracker.rules.lifecycle"),
    "3 floors of receiver": ("receiver/limits.py", "import receiver.app"),
    "4 rules, values, providers and verification do no I/O": ("tracker/rules/outcomes.py", "import time"),
    "5 SQL stays in storage": ("tracker/loops/retention.py", "import sqlalchemy"),
    "6 tables are private to storage": ("tracker/service/tracker.py", "import tracker.storage.tables"),
    "7 HTTP calls leave through transport": ("tracker/loops/expiry.py", "import httpx"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contracts")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken(folder: Path) -> list[str]:
    """Lint the imports of the packages in `folder`. Return the names of the broken contracts."""
    command = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Contracts:" in ended.stdout, ended.stdout + ended.stderr
    return [line.removesuffix("BROKEN").strip() for line in ended.stdout.splitlines() if line.endswith("BROKEN")]


def test_source_tree_breaks_no_contract(copy: Path) -> None:
    assert broken(copy) == []


def test_contract_has_a_violation_here() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert sorted(PLANTED) == sorted(contract["name"] for contract in contracts)


@pytest.mark.parametrize("contract", sorted(PLANTED))
def test_planted_violation_breaks_its_contract(copy: Path, contract: str) -> None:
    name, statement = PLANTED[contract]
    file = copy / name
    original = file.read_text()
    file.write_text(f"{original}\n{statement}\n")
    try:
        assert broken(copy) == [contract]
    finally:
        file.write_text(original)
