"""The tests pass as a background job of a script, where the shell makes its children ignore SIGINT."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOOK = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
START = f"""
import os, signal, subprocess, sys, tests.conftest
subprocess.run([sys.executable, "-c", {LOOK!r}], check=True)
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


def test_sigint_ignored_by_parent_reaches_children() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ran = subprocess.run([sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True)
    finally:
        signal.signal(signal.SIGINT, before)

    assert ran.stdout.split("\n") == ["True", "goes on", ""]
