"""In a folder without a database, a command that only reads fails and creates nothing."""

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path

import pytest

from homing.cli import build_parser, main
from homing.commands.client import must_exist
from tracker.errors import SettingsError
from tracker.settings import Settings

# Commands that create tasks, or a database on purpose. The last ones need no database here.
CREATING = {"submit", "expect", "adopt", "serve", "migrate", "demo", "sandbox"}
WITHOUT = {"openapi", "asyncapi", "key", "doctor"}
# Required options in addition to the positional arguments.
NEEDED = {"tasks resolve": ["--status", "succeeded"]}


def leaves(
    parser: ArgumentParser, command_path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ArgumentParser]]:
    """Yield the path and the parser of every runnable command."""
    if command_path:
        yield command_path, parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list what was declared
        if isinstance(action, _SubParsersAction):
            for name, each in action.choices.items():
                yield from leaves(each, (*command_path, name))


def command(command_path: tuple[str, ...], parser: ArgumentParser) -> list[str]:
    """Return a command line with a value for each required argument."""
    asked = [each for each in parser._get_positional_actions() if not isinstance(each, _SubParsersAction)]  # noqa: SLF001 - as above
    given = ["1" for each in asked if each.nargs not in {"?", "*"}]
    return [*command_path, *given, *NEEDED.get(" ".join(command_path), [])]


READING = [
    pytest.param(command(command_path, parser), id=" ".join(command_path))
    for command_path, parser in leaves(build_parser())
    if command_path[0] not in CREATING | WITHOUT and command_path != ("callback-url", "create")
]


@pytest.mark.parametrize("arguments", READING)
def test_reading_command_without_database_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(arguments, environ={}, env_file=None) == 2

    captured = capsys.readouterr()
    assert "there is no database here (homing.db does not exist)" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_command_that_needs_no_database_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)

    main([name], environ={"HOMING_KLING_BASE_URL": "http://127.0.0.1:9"}, env_file=None)

    assert list(tmp_path.iterdir()) == []


def test_creating_command_makes_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["expect", "kling", "images/omni-image"], environ={}, env_file=None) == 0
    assert main(["tasks"], environ={}, env_file=None) == 0

    assert (tmp_path / "homing.db").exists()


@pytest.mark.parametrize("name", ["absent/homing.db", "x" * 300, "file.txt/homing.db"])
def test_path_that_leads_nowhere_is_no_database(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()

    with pytest.raises(SettingsError, match="there is no database here"):
        must_exist(Settings(database_url=f"sqlite:///{tmp_path}/{name}"))
