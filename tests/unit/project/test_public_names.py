"""A package with `__all__` lists every name that it imports, sorted, and each name has a docstring."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import homing

ROOT = Path(__file__).parents[3]
PACKAGES = ("receiver", "tracker", "homing")
LISTING = sorted(
    str(file.parent.relative_to(ROOT)).replace("/", ".")
    for package in PACKAGES
    for file in (ROOT / package).rglob("__init__.py")
    if "__all__" in file.read_text()
)


PUBLIC_PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    # These pages explain how to change Homing itself.
    if not page.name.startswith("add-a-")
)


def imported(name: str) -> set[str]:
    """Return the names that a package imports from modules of Homing."""
    tree = ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES
        for alias in node.names
    }


@pytest.mark.parametrize("name", LISTING)
def test_package_lists_exactly_its_public_imports(name: str) -> None:
    listed = import_module(name).__all__
    assert listed == sorted(listed)
    assert set(listed) == imported(name)


@pytest.mark.parametrize("name", LISTING)
def test_public_name_exists_and_is_documented(name: str) -> None:
    package = import_module(name)
    for each in package.__all__:
        value = getattr(package, each)
        assert not callable(value) or value.__doc__, each


def test_packages_that_list_names_exist() -> None:
    assert {"homing", "tracker.api"} <= set(LISTING)


def test_homing_imports_nothing_before_first_use() -> None:
    code = "import sys, homing; print(*(n for n in sys.modules if n.partition('.')[0] in ('tracker', 'receiver')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == ""


def test_homing_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Homeing'"):
        _ = homing.Homeing
    assert dir(homing) == homing.__all__


@pytest.mark.parametrize("page", PUBLIC_PAGES)
def test_pages_import_from_homing_only(page: str) -> None:
    lines = (ROOT / page).read_text().splitlines()

    assert [line for line in lines if re.match(r" *(from|import) (tracker|receiver)\b", line)] == []
