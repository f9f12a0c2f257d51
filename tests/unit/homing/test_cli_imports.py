"""A help text or a client command imports neither the server nor the database."""

import json
import subprocess
import sys
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib import import_module

import pytest

from homing.cli import GROUPS, build_parser

SERVER = {"sqlalchemy", "sqlmodel", "alembic", "starlette", "uvicorn", "uvloop"}
MODULES = "import json, sys; {}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


def loaded(code: str) -> set[str]:
    command = [sys.executable, "-c", MODULES.format(code)]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout))


def parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    yield parser
    for action in parser._actions:  # noqa: SLF001 - argparse lists its parsers nowhere else
        if isinstance(action, _SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def test_help_text_needs_no_settings_and_no_server() -> None:
    assert (
        loaded("from homing.cli import GROUPS, build_parser; build_parser()") & (SERVER | {"pydantic", "jwt"}) == set()
    )


def test_client_needs_no_server() -> None:
    assert loaded("import homing.commands.client, tracker.settings") & SERVER == set()


def test_command_has_its_function() -> None:
    runs = [each.get_default("later") for each in parsers(build_parser())]
    named = [each for each in runs if each is not None]
    assert named
    for module, function in named:
        assert callable(getattr(import_module(module), function))


def test_command_is_in_one_group_of_help() -> None:
    (commands,) = [each for each in build_parser()._actions if isinstance(each, _SubParsersAction)]  # noqa: SLF001

    assert sorted(name for names in GROUPS.values() for name in names) == sorted(commands.choices)


@pytest.mark.parametrize("module", ["homing.commands.serve", "homing.sandbox.command"])
def test_declaring_command_loads_no_server(module: str) -> None:
    assert loaded(f"import {module}") & SERVER == set()
