"""The servers under test: real processes that the benchmark starts and stops."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import deliveries
from bench.apart import ROOT
from bench.results import Broken

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
API_KEY: Final = "made-up-key-for-the-benchmark"
# Nothing listens on the discard port of this machine, so connections to it are refused at once.
CLOSED_PORT_URL: Final = "http://127.0.0.1:9"
_KIB: Final = re.compile(r"^(VmRSS|VmHWM):\s*(\d+) kB$", re.MULTILINE)
_URL: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory in MiB: now and at its peak."""

    now: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process that serves on a loopback port."""

    port: int
    pid: int
    log: Path

    def memory(self) -> Memory:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.is_file():  # systems other than Linux do not report the peak
            output = subprocess.run(
                ["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True
            )
            return Memory(now=int(output.stdout) / 1024, peak=int(output.stdout) / 1024)
        kib = dict(_KIB.findall(status.read_text()))
        return Memory(now=int(kib["VmRSS"]) / 1024, peak=int(kib["VmHWM"]) / 1024)

    def forget_peak(self) -> None:
        """Reset the peak to the current memory. This works only on Linux, for the owner of the process."""
        with suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def logged(self) -> str:
        return self.log.read_text(errors="replace")[-500:]


def homing_settings(database_url: str, **changes: str) -> dict[str, str]:
    """Return the environment of a `homing serve` with all checks and without a provider."""
    usual = {
        "database_url": database_url,
        "host": "127.0.0.1",
        "port": "0",
        "public_url": "http://127.0.0.1:8000",
        "api_keys": f"{deliveries.CLIENT}:{API_KEY}",
        "callback_secrets": deliveries.CALLBACK_SECRET,
        "kling_webhook_secrets": deliveries.WEBHOOK_SECRET,
        "kling_base_url": CLOSED_PORT_URL,
        "kling_api_key": "made-up-key-at-the-provider",
        # The polls of the tasks are ten years in the future. Without this, Homing takes that for a wrong clock.
        "first_poll_delay": "3650d",
    }
    return {f"HOMING_{name.upper()}": value for name, value in (usual | changes).items()}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with only the given settings of Homing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOMING_")}
    return kept | dict(settings)


@contextmanager
def homing(folder: Path, name: str, settings: Mapping[str, str]) -> Iterator[Server]:
    """Run `homing serve` within the block."""
    with _started(folder, name, ["homing", "serve"], environment(settings)) as server:
        yield server


@contextmanager
def module(folder: Path, name: str, *arguments: str) -> Iterator[Server]:
    """Run ``python -m`` one of the benchmark's servers within the block."""
    with _started(folder, name, arguments, environment({})) as server:
        yield server


@contextmanager
def _started(folder: Path, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[Server]:
    log = folder / f"{name}.log"
    # In its own session, Ctrl-C does not reach the server. The benchmark stops it.
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=dict(environ),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield Server(port=_announced(process, log), pid=process.pid, log=log)
        if process.poll() is not None:
            raise Broken(f"{name} ended by itself: {log.read_text(errors='replace')[-500:]}")
    finally:
        _end(process)


def _announced(process: subprocess.Popen[str], log: Path) -> int:
    """Read the line with the server's URL."""
    assert process.stdout is not None
    limit = threading.Timer(START_SECONDS, process.kill)
    limit.start()
    try:
        line = process.stdout.readline()
    finally:
        limit.cancel()
    found = _URL.search(line)
    if found is None:
        raise Broken(f"a server did not start: {log.read_text(errors='replace')[-500:]}")
    return int(found[1])


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
