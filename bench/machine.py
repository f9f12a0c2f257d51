"""A description of the machine, which the results depend on."""

import os
import platform
import re
import sqlite3
from pathlib import Path
from typing import Final

CPU_INFO: Final = Path("/proc/cpuinfo")
GIB: Final = 1 << 30


def described() -> str:
    """Return the cores, the CPU model, the memory, the system and the interpreter in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"{os.cpu_count()} cores shared with the load ({_model()}), {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def _model() -> str:
    text = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
