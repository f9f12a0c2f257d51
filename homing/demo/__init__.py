"""`homing demo`: the whole of Homing against a sandbox full of faults."""

from typing import Final

SEED: Final = 7
TASKS: Final = 40
