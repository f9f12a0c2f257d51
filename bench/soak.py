"""``python -m bench.soak``: what takes too long for every day.

A million callbacks: the benchmark's memory part in its long form. A thousand processes killed: the tests that kill
servers in the middle of their batches, with far more seeds. Four brokers, of which each is away for a minute: the test
of that, with the whole minute. An hour or so; it ends with the first that fails.
"""

import os
import subprocess
import sys
from typing import Final

from bench.apart import ROOT

CRASHES: Final = "HOMING_CRASH_RUNS"
RUNS: Final = "1000"
CRASH_TESTS: Final = "tests/acceptance/test_killed_in_a_batch.py"
WORKERS: Final = "2"
OUTAGE: Final = "HOMING_OUTAGE_SECONDS"
MINUTE: Final = "60"
OUTAGE_TEST: Final = "tests/acceptance/test_brokers_one_down.py"


def main() -> int:
    for command, environ in (
        (["bench", "--soak", "--only", "memory"], {}),
        (["pytest", "-n", WORKERS, "--timeout", "0", CRASH_TESTS], {CRASHES: os.environ.get(CRASHES, RUNS)}),
        (["pytest", "-s", "--timeout", "0", OUTAGE_TEST], {OUTAGE: os.environ.get(OUTAGE, MINUTE)}),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=os.environ | environ, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
