"""Commands in a folder without a database: those that only read say so, and make nothing."""

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path

import pytest

from homing.cli import build_parser, main
from homing.commands.client import must_exist
from tracker.errors import SettingsError
from tracker.settings import Settings

# They bring something new, or make a database on purpose; the last ones need none.
CREATING = {"submit", "expect", "adopt", "serve", "migrate", "demo", "sandbox"}
WITHOUT = {"openapi", "asyncapi", "key", "doctor"}
# Arguments that a command asks for beyond its positional ones.
NEEDED = {"tasks resolve": ["--status", "succeeded"]}


def leaves(parser: ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], ArgumentParser]]:
    """Yield every command that can be run, with its words."""
    if words:
        yield words, parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list what was declared
        if isinstance(action, _SubParsersAction):
            for name, each in action.choices.items():
                yield from leaves(each, (*words, name))


def command(words: tuple[str, ...], parser: ArgumentParser) -> list[str]:
    """Write a command with something for each argument that it asks for."""
    asked = [each for each in parser._get_positional_actions() if not isinstance(each, _SubParsersAction)]  # noqa: SLF001 - as above
    given = ["1" for each in asked if each.nargs not in {"?", "*"}]
    return [*words, *given, *NEEDED.get(" ".join(words), [])]


READING = [
    pytest.param(command(words, parser), id=" ".join(words))
    for words, parser in leaves(build_parser())
    if words[0] not in CREATING | WITHOUT and words != ("callback-url", "create")
]


@pytest.mark.parametrize("arguments", READING)
def test_reading_command_without_database_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(arguments, environ={}, env_file=None) == 2

    told = capsys.readouterr()
    assert "there is no database here (homing.db does not exist)" in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
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
