"""The number of polls, and the delay until Homing knows a result: the real tracker and store, in virtual time."""

import asyncio
import heapq
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from bench import deliveries, servers
from bench.databases import SqliteFiles
from bench.results import Broken, Row
from bench.rounds import say
from bench.world import MEDIAN, SIGMA, Clock, Life, World
from tracker.app import create_tracker, reconciler_of
from tracker.loops.reconciler import Reconciler
from tracker.model.records import Arrived
from tracker.model.task import ClientIdentity, Observation, Source, Status, Trust
from tracker.settings import load_settings

SEEDS: Final = (1, 2, 3, 4)
# A file system in memory, if the system has one. A run needs a few megabytes.
MEMORY_FOLDER: Final = Path("/dev/shm")
WARM_UP: Final = 300
MEASURED: Final = 500
BETWEEN: Final = timedelta(seconds=10)
# A callback comes about a second after the end of its task.
CALLBACK_SECONDS: Final = (0.5, 1.5)
ME: Final = ClientIdentity(name=deliveries.CLIENT)
LOGNORMAL: Final = f"run times lognormal, median {MEDIAN.total_seconds():.0f} s, sigma {SIGMA}, virtual time"
Action = Callable[[], Awaitable[None]]


def healthy(folder: Path) -> Iterator[Row]:
    """Measure with a signed callback for every finished task."""
    runs = _simulated(folder, lost=False)
    yield Row(
        key="healthy_requests_per_task",
        what="status reads per finished task while signed callbacks work",
        rounds=[_reads(lives) for lives in runs],
        must=0.2,
        goal=0.05,
        note=f"{MEASURED} tasks; {LOGNORMAL}",
    )


def lost(folder: Path) -> Iterator[Row]:
    """Measure without any callback and without batch polls."""
    runs = _simulated(folder, lost=True)
    yield Row(
        key="lost_extra_delay_ratio",
        what="all callbacks lost, single-id polls: median extra delay, as a share of the run time",
        rounds=[median(life.extra_delay for life in lives) for lives in runs],
        must=0.10,
        goal=0.07,
        note=f"{MEASURED} tasks; {LOGNORMAL}",
    )
    yield Row(key="lost_reads_per_task", what="… reads per task", rounds=[_reads(lives) for lives in runs], must=3)


def _reads(lives: Sequence[Life]) -> float:
    return sum(life.reads for life in lives) / len(lives)


def _simulated(folder: Path, *, lost: bool) -> list[Sequence[Life]]:
    """Simulate each seed. Several run at once and in memory, because virtual time does not depend on the disk."""
    in_memory = MEMORY_FOLDER.is_dir() and os.access(MEMORY_FOLDER, os.W_OK)
    with (
        TemporaryDirectory(prefix="bench-", dir=MEMORY_FOLDER if in_memory else folder) as files,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as workers,
    ):
        runs = list(workers.map(partial(_lives, Path(files), lost=lost), SEEDS))
    for seed, lives in zip(SEEDS, runs, strict=True):
        delay = median(life.extra_delay for life in lives)
        say(f"seed {seed}: {_reads(lives):.3f} reads per task, median extra delay {delay:.1%}")
    return runs


def _lives(folder: Path, seed: int, *, lost: bool) -> Sequence[Life]:
    url = SqliteFiles(folder).fresh(f"schedule_{'lost' if lost else 'healthy'}_{seed}")
    return asyncio.run(_Simulation(url, seed, lost=lost).run())


class _Simulation:
    """One run. Each step sets the clock to the next event or to the next round of the reconciler."""

    def __init__(self, url: str, seed: int, *, lost: bool) -> None:
        self._lost = lost
        self._random = Random(seed)
        self._clock = Clock()
        self._world = World(self._clock, self._random, batches=not lost)
        settings = load_settings(environ=servers.homing_settings(url), env_file=None)
        self._tracker = create_tracker(settings, clock=self._clock, transport=self._world)
        self._numbers = count()
        self._events: list[tuple[datetime, int, Action]] = []

    async def run(self) -> Sequence[Life]:
        """Return the tasks that were created after the schedule had learned from the first ones."""
        at = self._clock.now
        for _ in range(WARM_UP + MEASURED):
            at += BETWEEN * self._random.expovariate(1)
            self._at(at, self._submit)
        self._at(self._clock.now, self._learn)
        async with self._tracker:
            await self._live(reconciler_of(self._tracker))
            await self._check()
        return list(self._world.lives.values())[WARM_UP:]

    async def _live(self, reconciler: Reconciler) -> None:
        round_at = self._clock.now
        while self._open():
            due = await self._tracker.store.due_tasks.next_due()
            # The reconciler runs at intervals. A task that becomes due in between waits for it.
            idle = self._tracker.policy.reconciler_idle
            next_round = None if due is None else round_at + max(-(-(due - round_at) // idle), 1) * idle
            if self._events and (next_round is None or self._events[0][0] <= next_round):
                self._clock.now, _, action = heapq.heappop(self._events)
                await action()
            elif next_round is not None:
                self._clock.now = round_at = next_round
                await reconciler.run_once()

    def _open(self) -> bool:
        lives = self._world.lives.values()
        return len(lives) < WARM_UP + MEASURED or any(life.known_at is None for life in lives)

    def _at(self, at: datetime, action: Action) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), action))

    async def _submit(self) -> None:
        order = self._tracker.order(
            deliveries.PROVIDER, deliveries.KIND, {"prompt": "a lighthouse", "model_name": "kling-v3-omni"}
        )
        task = await self._tracker.submit(ME, deliveries.PROVIDER, order)
        assert task.provider_task_id is not None
        life = self._world.lives[task.provider_task_id]
        if not self._lost:
            last_observed_at = life.ends_at + timedelta(seconds=self._random.uniform(*CALLBACK_SECONDS))
            self._at(last_observed_at, lambda: self._callback(task.id, life))

    async def _callback(self, task_id: str, life: Life) -> None:
        body = self._world.callback(life)
        report = self._tracker.providers[deliveries.PROVIDER].provider.read_callback(body)
        observation = Observation(
            source=Source.CALLBACK,
            trust=Trust.SIGNED,
            report=report,
            at=self._clock.now,
            body=body,
            webhook_id=f"msg_{life.id}",
        )
        await self._tracker.record(Arrived(provider=deliveries.PROVIDER, observation=observation, task_id=task_id))

    async def _learn(self) -> None:
        await self._tracker.learner.learn()
        self._at(self._clock.now + self._tracker.policy.learn_every, self._learn)

    async def _check(self) -> None:
        """Check that every task in the store has finished."""
        stats = await self._tracker.stats(ClientIdentity(name=ME.name, sees_all=True))
        if stats.by_status != {Status.SUCCEEDED.value: WARM_UP + MEASURED}:
            raise Broken(f"not every task finished: {dict(stats.by_status)}")
