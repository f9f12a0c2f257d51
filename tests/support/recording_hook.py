"""A subscriber that records its events, and can end its process between the record and its return.

TOLD_FILE names the file that all processes write to. TOLD_FATAL is how many events this process takes before it dies.
The last event is received, and Homing does not know it.
"""

import json
import os
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

_number = count(1)


def note(event: dict[str, Any]) -> None:
    """Take one event."""
    line = json.dumps([event["id"], event["subject"], int(event["sequence"]), os.getpid()]) + "\n"
    file = os.open(os.environ["TOLD_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)
    if next(_number) == int(os.environ.get("TOLD_FATAL", "0")):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One received event and the process that delivered it."""

    id: str
    subject: str
    sequence: int
    pid: int


def recorded_calls(file: Path) -> list[RecordedCall]:
    """Read the received events in order."""
    if not file.exists():
        return []
    rows = (json.loads(line) for line in file.read_text().splitlines())
    return [RecordedCall(id=key, subject=subject, sequence=sequence, pid=pid) for key, subject, sequence, pid in rows]
