"""Server processes forked from one that has imported everything: the start takes a tenth of the usual time.

Each is an ordinary process with its own loop and connections, and SIGKILL ends it at once. As a program, this module is
the process that forks: it reads and writes lines of JSON, and ends its children at the end of the input.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.crashing_server import main

ROOT: Final = Path(__file__).parents[2]


class Forked:
    """One life of the launcher's server, spoken to as ``subprocess.Popen`` is."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self.pid: int = _asked({"arguments": list(arguments), "environ": environ, "log": str(log)})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked({"poll": self.pid})
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if self.returncode is None:
            self.returncode = _asked({"wait": self.pid})


@cache
def _parent() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.forked_server"]
    parent = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(parent.communicate)
    return parent


def _asked(question: dict[str, Any]) -> Any:
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps(question) + "\n")
    parent.stdin.flush()
    return json.loads(parent.stdout.readline())


def _fork_for_others() -> None:
    alive: set[int] = set()
    for line in sys.stdin:
        question = json.loads(line)
        if "arguments" in question:
            answer: int | None = os.fork()
            if not answer:
                _live(question)
            else:
                alive.add(answer)
        else:
            (pid,) = question.values()
            ended, status = os.waitpid(pid, os.WNOHANG if "poll" in question else 0)
            answer = os.waitstatus_to_exitcode(status) if ended else None
            alive -= {ended}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _live(order: dict[str, Any]) -> None:
    """Run a server in this process until it ends."""
    file = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(order["environ"])
    try:
        main(order["arguments"])
    finally:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    _fork_for_others()
