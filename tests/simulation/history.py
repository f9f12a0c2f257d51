"""One history from one seed: orders, faults, incidents and interventions. Then nothing fails, and all must finish."""

import asyncio
import gc
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Final

from tests.simulation.clients import Clients
from tests.simulation.deployment import Deployment
from tests.simulation.faulty_sqlite import Disk, faulty_sqlite
from tests.simulation.incidents import Incidents
from tests.simulation.inline_work import inline_work
from tests.simulation.operators import Operators
from tests.simulation.oracle import Oracle
from tests.simulation.oracle_events import Violation
from tests.simulation.sinks import SINKS
from tests.simulation.world import Plan, World
from tests.support.databases import sqlite_url
from tests.support.shared_statements import shared_statements

FAULTS: Final = (
    *("slow reply", "connection refused", "busy", "create refused", "created late", "never created, no reply"),
    *("reply lost", "unreadable reply", "poll reply lost", "stale read", "unreadable poll", "another task's data"),
    *("batch entry dropped", "foreign entry in batch", "echo without lookup"),
    *("callback lost", "callback late", "callback unsigned", "callback doubled", "callback replayed"),
    *("callback forged", "contradictory callback"),
    *("client hangs up", "client repeats", "client misuses ids"),
    *("sink refuses", "sink busy", "sink drips", "sink cuts off", "sink gone"),
)
LIST_FAULTS: Final = ("list entry dropped", "list entry doubled", "foreign entry in list", "list repeats")
# How often a fault strikes in one history, by chance: in many histories never, in some often.
RATES: Final = (0.0, 0.0, 0.02, 0.05, 0.1, 0.3, 0.6)
# These leave too little to work with if they strike often.
RARE: Final = {"sink gone": 0.02, "create refused": 0.1, "connection refused": 0.3, "never created, no reply": 0.3}
STORM_SECONDS: Final = 100.0
FAULTLESS_SECONDS: Final = 1_500.0
LOOK_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 60.0
# Twenty open tasks that are polled take some thousands.
MOST_IDLE_STEPS: Final = 15_000
# On a disk in memory: what a real disk does is not simulated by waiting for one.
FORMATTER: Final = logging.Formatter()
MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The outcome of one history."""

    plan: Plan
    violations: tuple[Violation, ...]
    faults: Counter[str]
    tasks: int
    restarts: int
    steps: int
    trace: tuple[str, ...]


def plan_for(seed: int) -> Plan:
    """Choose what a history consists of."""
    random = Random(f"plan {seed}")
    rates = {fault: min(random.choice(RATES), RARE.get(fault, 1.0)) for fault in FAULTS}
    # Chosen apart, so that the rest of a plan is the same with and without them.
    apart = Random(f"lists {seed}")
    rates |= {fault: apart.choice(RATES) for fault in LIST_FAULTS}
    return Plan(
        seed=seed,
        rates=rates,
        orders=tuple(range(random.randint(16, 30))),
        incidents=tuple(range(random.randint(1, 5))),
        interventions=tuple(range(random.randint(0, 6))),
    )


def run_history(plan: Plan) -> Ended:
    """Run one history to its end and judge it."""
    with _no_collection(), shared_statements():
        return _run(plan)


def _run(plan: Plan) -> Ended:
    folder = Path(mkdtemp(prefix="homing-simulation-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        sqlite_url(folder)
        world, disk = World(plan), Disk()
        with inline_work(), faulty_sqlite(disk, world.clock), _collected_log() as log, _own_loop(world) as deployments:
            deployments.append(Deployment(world, folder / "homing.db"))
            return world.loop.run_until_complete(_lived(world, disk, deployments[0], log))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _lived(world: World, disk: Disk, deployment: Deployment, log: list[str]) -> Ended:
    plan = world.plan
    clients = Clients(world, deployment)
    operators, incidents = Operators(world, deployment, clients), Incidents(world, deployment, disk)
    oracle = Oracle(world, deployment, clients, operators)
    await deployment.start(tries=1)
    orders = [world.start(clients.run(order)) for order in clients.orders]
    others = [world.start(operators.run(number)) for number in plan.interventions]
    others += [world.start(incidents.run(number)) for number in plan.incidents]
    await asyncio.sleep(STORM_SECONDS)
    if others:
        await asyncio.wait(others)
    world.faultless, world.clock_offset = True, type(world.clock_offset)()
    world.note("no more faults")
    deployment.provider.end_faults()
    deployment.destinations.down_until.clear()
    violations: list[Violation] = []
    idle_steps: int | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(FAULTLESS_SECONDS):
            await asyncio.wait(orders)
            for sink in (*SINKS, "callbacks"):
                await operators.insist("POST", "/v1/replay", {"sink": sink, "dead_letter": True, "dry_run": False})
            idle_steps = await _idle_steps(world, oracle, operators)
    if (unfinished := oracle.at_rest()) is not None:
        violations.append(Violation("stuck", unfinished))
    elif idle_steps is None:
        violations.append(Violation("stuck", "nothing is left to do, but it does not stay so"))
    elif idle_steps > MOST_IDLE_STEPS:
        violations.append(Violation("busy at rest", f"{idle_steps} steps within {IDLE_SECONDS:.0f} s"))
    for task in (*orders, *others):
        if task.done() and (error := task.exception()) is not None:
            raise error
    violations += oracle.violations(log)
    await deployment.stop()
    return Ended(
        plan=plan,
        violations=tuple(violations),
        faults=world.faults,
        tasks=len(deployment.provider.tasks),
        restarts=len(deployment.restarted_at),
        steps=world.loop.steps,
        trace=tuple(world.trace),
    )


async def _idle_steps(world: World, oracle: Oracle, operators: Operators) -> int:
    """Wait until everything is at rest and stays so for ``IDLE_SECONDS``. Return the steps of that time."""
    while True:
        await operators.resume_sinks()
        while oracle.at_rest() is not None:
            # Resume again: an endpoint may have answered 410 a while before that is recorded.
            await asyncio.sleep(LOOK_SECONDS)
            await operators.resume_sinks()
        steps = world.loop.steps
        await asyncio.sleep(IDLE_SECONDS)
        # Homing may have submitted a task again in between.
        if oracle.at_rest() is None:
            return world.loop.steps - steps


@contextmanager
def _own_loop(world: World) -> Iterator[list[Deployment]]:
    """Run within the block on the world's loop. Afterwards let go of what killed processes left behind, unseen."""
    world.loop.set_exception_handler(lambda _loop, _context: None)
    deployments: list[Deployment] = []
    try:
        yield deployments
    finally:
        world.loop.forget()
        with _unseen():
            for deployment in deployments:
                deployment.discard()
        world.loop.close()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage within the block, because when that happens would depend on what ran before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What killed processes left behind, such as coroutines that never began, is in cycles. All of it is young.
        with _unseen():
            gc.collect(0)
        if enabled:
            gc.enable()


@contextmanager
def _unseen() -> Iterator[None]:
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # With the traceback, which the real log prints too.
        self.lines.append(FORMATTER.format(record))


@contextmanager
def _collected_log() -> Iterator[list[str]]:
    """Collect every log line of Homing within the block, at every level."""
    logger, collector = logging.getLogger("homing"), _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield collector.lines
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate
