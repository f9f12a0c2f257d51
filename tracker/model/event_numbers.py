"""Event numbers: the cursor of an event, and the sequence that consumers compare.

The database gives one number after the other. A database that comes back in an older state would give some of them
again, to other events. So whenever that is possible, Homing continues at a number that is made of the time: greater
than every number that was given before, in whatever state of the database. All stay below 2**53, which JavaScript reads
exactly.
"""

from typing import Final

# 2020-01-01 UTC in Unix milliseconds. A range begins at the milliseconds since then, shifted by BITS.
EPOCH: Final = 1_577_836_800_000
# Room for 4,096 events in a millisecond: no range reaches one that begins later.
BITS: Final = 12
# Every number below was counted from 1, every other belongs to a range.
FIRST_RANGE: Final = 1 << 44
# A task has fewer versions.
VERSIONS: Final = 10**6
SHORT_DIGITS: Final = 10
LONG_DIGITS: Final = 19


def sequence(cursor: int, version: int) -> int:
    """Return what orders the events of one task and repeats for none, also after the task went back to an old version.

    It is the task's version as long as numbers are counted from 1.
    """
    return version if cursor < FIRST_RANGE else (cursor >> BITS) * VERSIONS + version


def written(number: int) -> str:
    """Return a sequence as digits that compare as text: ten, or nineteen within a range."""
    return f"{number:0{SHORT_DIGITS}}" if number < FIRST_RANGE else f"{number:0{LONG_DIGITS}}"
