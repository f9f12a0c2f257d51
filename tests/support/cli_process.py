"""The command `homing`: called within the test's process, and `homing serve` as a process of its own."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homing.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The exit status and the output of a finished command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line on the error stream."""
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.rstrip("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server: its startup line and its address."""

    process: "subprocess.Popen[str]"
    line: str
    url: str
    errors: Path


class Shell:
    """A directory with a database of its own, and settings that every command gets."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.settings = {"database_url": f"sqlite:///{directory / 'homing.db'}", **settings}

    def run(self, *arguments: str, **settings: str) -> CommandResult:
        """Run a command that ends."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main(arguments, environ=self._environ(settings), env_file=None)
            except SystemExit as end:
                status = int(end.code or 0)
        return CommandResult(status=status, out=out.getvalue(), err=err.getvalue())

    @contextmanager
    def serving(self, *arguments: str, **settings: str) -> Iterator[Served]:
        """Run `homing serve` on a free port until the block ends."""
        errors = self.directory / f"serve{''.join(arguments)}.err"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOMING_")}
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "homing", "serve", *arguments],
                cwd=self.directory,
                env={**kept, **self._environ({"port": "0", **settings})},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("Homing serves http://"), errors.read_text()
                yield Served(process=process, line=line, url=line.split()[2], errors=errors)
            finally:
                process.kill()

    @contextmanager
    def begun_without_streams(self, port: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Run `homing serve` with all standard streams closed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOMING_")}
        command = ["sh", "-c", 'exec "$0" -m homing serve <&- >&- 2>&-', sys.executable]
        environ = {**kept, **self._environ({"port": str(port)})}
        with subprocess.Popen(command, cwd=self.directory, env=environ) as process:
            try:
                yield process
            finally:
                process.kill()

    def begin(self, *arguments: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
        """Run a command as a process of its own, beside others."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOMING_")}
        return subprocess.Popen(
            [sys.executable, "-m", "homing", *arguments],
            cwd=self.directory,
            env={**kept, **self._environ({"port": "0"})},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def key(self) -> str:
        """The key that the first server made beside the database."""
        return (self.directory / "homing.db.key").read_text().strip()

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {f"HOMING_{name.upper()}": value for name, value in {**self.settings, **more}.items()}
