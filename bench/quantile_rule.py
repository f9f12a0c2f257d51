"""The plain rule: poll when a fixed share of the tasks that ran as long has finished. Callbacks delay the polls."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

from tracker.model.records import Completion

RUN_TIMES: Final = 300
CALLBACKS: Final = 50
MIN_RUN_TIMES: Final = 10
# The next poll comes when this share of the tasks that ran as long still runs, or, where callbacks arrive, when
# 1.5 times as many still run as have lost their callback.
MAX_STILL_RUNNING: Final = 0.65
RUNNING_PER_LOST: Final = 1.5
# A first poll is at most three mean run times away; a later one comes before the age has doubled.
MAX_FIRST_PER_MEAN: Final = 3.0
MIN_GROWTH: Final = 1.1
MAX_GROWTH: Final = 2.0
MIN_GAP_SECONDS: Final = 2.0
MAX_GAP_SECONDS: Final = 600.0
AGE_SHARE: Final = 0.25
JITTER: Final = 0.05
WIDE_JITTER: Final = 0.2


class QuantileRule:
    """Plans the polls of one model from its recent run times and the share of its lost callbacks."""

    def __init__(self, *, expected_run_seconds: float) -> None:
        self._expected = expected_run_seconds
        self._run_times: deque[float] = deque(maxlen=RUN_TIMES)
        self._heard: deque[bool] = deque(maxlen=CALLBACKS)

    def learn(self, completions: Sequence[Completion]) -> None:
        self._run_times.extend(one.took.total_seconds() for one in completions)
        self._heard.extend(one.heard for one in completions)

    def next_poll(self, age: float, random: float) -> float:
        """Return the age in seconds at which to poll next."""
        planned = self._planned(age)
        if planned is not None:
            planned = age + (planned - age) * (1 + JITTER * random)
        elif age < self._expected and len(self._run_times) < MIN_RUN_TIMES:
            planned = self._expected * (1 + WIDE_JITTER * random)
        else:
            planned = age + min(age * AGE_SHARE, MAX_GAP_SECONDS) * (1 + WIDE_JITTER * (2 * random - 1))
        return max(planned, age + MIN_GAP_SECONDS)

    def _planned(self, age: float) -> float | None:
        run_times = sorted(self._run_times)
        longer = len(run_times) - bisect_right(run_times, age)
        if longer == 0 or len(run_times) < MIN_RUN_TIMES:
            return None
        lost = (self._heard.count(False) + 0.5) / (len(self._heard) + 1)
        share = min(MAX_STILL_RUNNING, RUNNING_PER_LOST * lost)
        first = run_times[-1 - int(len(run_times) * share)]
        first = min(first, MAX_FIRST_PER_MEAN * sum(run_times) / len(run_times))
        if age < first:
            return first
        return min(max(run_times[-1 - int(longer * share)], age * MIN_GROWTH), age * MAX_GROWTH)
