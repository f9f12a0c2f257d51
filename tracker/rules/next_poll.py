"""When to look at something that ends unseen: optimal inspection times, by backward induction. Pure.

What is known of the run time is a piecewise-constant density between quantiles. From each age ``a`` at which a look
found the task unfinished, the best next look is the one with the least sum of the looks' price and the delay's harm:

    cost(a) = min over x > a:  price · P(unheard at x) + lost · E[harm of an end seen at x] + P(running at x) · cost(x)

where all is given that the task was running at ``a``. A task is unheard at ``x`` while it runs, or when its callback
got lost. So where callbacks come, a look is worth its price only where silence itself says that this one was lost;
where they get lost (``lost`` = 1), looks are densest where tasks end most. The harm of a delay is the square root of
its share of the median run time, which favours the usual task over the rare one.

The price is where the reads of a task and its delay balance. Run times lognormal with sigma 0.3, learned from 300
tasks, every callback lost (reads count the one that finds the end; the delay is the median, in shares of the run time):

    price   0.03         0.04         0.05         0.06         0.08
            3.9, 5.4 %   3.4, 6.3 %   3.0, 7.4 %   2.6, 8.6 %   2.3, 10 %

A little more or less that was learned may change the best number of looks by one, for all tasks alike. So each look
draws its price from PRICES by lot: together 2.7 reads and 8.3 %, and the reads swing half as much (by 0.12). Little is
left to gain: with the true distribution in hand, 2.7 reads buy 8.0 %, and 7 % cost 3.1 reads.
"""

import math
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import Final

# The shares of the tasks that end before each edge of what is learned.
LEVELS: Final = (0.0, 0.01, 0.025, *(step / 20 for step in range(1, 20)), 0.975, 0.99, 1.0)
MIDDLE: Final = LEVELS.index(0.5)
PRICES: Final = (0.04, 0.05, 0.062, 0.078)
# Each stretch between two edges is taken apart, so that a look may fall inside it.
PARTS: Final = 3

Edges = tuple[float, ...]


def next_look(edges: Edges, *, lost: float, age: float, gap: float, random: float) -> float | None:
    """Return the age at which to look next, in seconds, at the earliest ``age + gap``; None beyond what is learned.

    ``edges`` are the run times at LEVELS, ``lost`` is the chance that no callback tells the end, 0 ≤ ``random`` < 1.
    """
    ages, following = _plan(edges, lost, gap, PRICES[int(random * len(PRICES))])
    nearest = bisect_left(ages, age)
    if nearest == len(ages):
        return None
    if nearest > 0 and age - ages[nearest - 1] < ages[nearest] - age:
        nearest -= 1
    # Edges may lie closer together than numbers can tell: then what follows the nearest is no later than ``age``.
    look = next((later for later in following[nearest:] if later > age), None)
    return None if look is None else max(look, age + gap)


@lru_cache(maxsize=256)
def _plan(edges: Edges, lost: float, gap: float, price: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ages, and the best next look from each: a millisecond or two, remembered while nothing new is learned."""
    ages, ended = _grid(edges)
    last = len(ages) - 1
    # A callback may be a moment behind the end that it tells: as much as lies between two looks at the least.
    told = [_share_at(age - gap, ages, ended) for age in ages]
    cost, following = [0.0] * len(ages), [last] * len(ages)
    harm = [0.0] * len(ages)
    for here in range(last - 1, -1, -1):
        running, best = 1 - ended[here], math.inf
        share, middle = ended[here + 1] - ended[here], (ages[here] + ages[here + 1]) / 2
        for there in range(here + 1, last + 1):
            harm[there] += share * math.sqrt(max(ages[there] - middle, 0.0) / edges[MIDDLE])
            unheard = running - (1 - lost) * max(told[there] - ended[here], 0.0)
            total = price * unheard + lost * harm[there] + (1 - ended[there]) * cost[there]
            if total < best:
                best, following[here] = total, there
        cost[here] = best / running
    return tuple(ages), tuple(ages[there] for there in following)


def _grid(edges: Edges) -> tuple[list[float], list[float]]:
    """Return the ages at which a look may fall, and the share of the tasks that ended before each."""
    ages, ended = [0.0, edges[0]], [0.0, 0.0]
    for (low, high), (before, after) in zip(pairwise(edges), pairwise(LEVELS), strict=True):
        for part in range(1, PARTS + 1):
            ages.append(low + (high - low) * part / PARTS)
            ended.append(before + (after - before) * part / PARTS)
    return ages, ended


def _share_at(age: float, ages: list[float], ended: list[float]) -> float:
    after = bisect_right(ages, age)
    if after == 0:
        return 0.0
    if after == len(ages):
        return 1.0
    inside = (age - ages[after - 1]) / (ages[after] - ages[after - 1])
    return ended[after - 1] + (ended[after] - ended[after - 1]) * inside
