"""How the interpreter is set in a process that serves: even answer times before all else."""

import gc
from typing import Final

FIRST_THRESHOLD: Final = 10_000


def favour_latency() -> None:
    """Set up this process for good; call it once, when everything is built and started.

    Seen with signed callbacks on SQLite, 16 connections: each full collection went through 118,000 objects that live
    as long as the process, and stopped everything for 78 ms; of what a request makes it found next to nothing. The
    youngest generation was looked through 22 times a second with the usual threshold of 700; with this one a few times
    a minute, for 1.3 ms. Another switch interval between threads (5 ms to 0.05 ms) made no difference beyond the noise.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_THRESHOLD, *gc.get_threshold()[1:])
