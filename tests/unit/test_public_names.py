"""A package that lists its public names lists all that it imports for them, sorted, and each says what it is."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTING = sorted(
    str(file.parent.relative_to(ROOT)).replace("/", ".")
    for package in ("receiver", "tracker", "homing")
    for file in (ROOT / package).rglob("__init__.py")
    if "__all__" in file.read_text()
)


def imported(name: str) -> set[str]:
    """Give the names that a package imports from its own modules."""
    tree = ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{name}.")
        for alias in node.names
    }


@pytest.mark.parametrize("name", LISTING)
def test_a_package_lists_exactly_what_it_imports_for_others(name: str) -> None:
    listed = import_module(name).__all__
    assert listed == sorted(listed)
    assert set(listed) == imported(name)


@pytest.mark.parametrize("name", LISTING)
def test_every_public_name_is_there_and_a_class_or_function_says_what_it_is(name: str) -> None:
    package = import_module(name)
    for each in package.__all__:
        value = getattr(package, each)
        assert not callable(value) or value.__doc__, each


def test_there_are_packages_that_list_their_names() -> None:
    assert "tracker.api" in LISTING
