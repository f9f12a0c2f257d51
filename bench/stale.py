"""Many tasks without callbacks become due at once: the time until all are finished, and the number of requests."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from sqlalchemy import Engine, create_engine, text

from bench import deliveries, servers, subjects
from bench.databases import Databases, migrated, write
from bench.results import Broken, Row
from bench.rounds import say
from tracker.model.changes import Change
from tracker.model.task import Status, Task

TASKS: Final = 500
MANY_TASKS: Final = (2_000, 4_000, 10_000)
MANY_SECONDS: Final = 60
# The default budget of a minute.
MANY_REQUESTS: Final = 120
# How far in the future the tasks become due.
LEAD_TIME: Final = timedelta(seconds=1)
MAX_SECONDS: Final = 120.0
CHECK_SECONDS: Final = 0.01


def measure(databases: Databases, folder: Path, *, rounds: int) -> Iterator[Row]:
    seconds, requests = _rounds(databases, folder, TASKS, rounds)
    per_task = [count / TASKS for count in requests]
    what = f"{TASKS} stale tasks, {databases.name}, provider answering in 50 ms"
    yield Row(key=f"stale_{TASKS}_s", what=f"{what}: until settled", rounds=seconds, unit="s", must=3, goal=1)
    yield Row(key="stale_requests_per_task", what="… polls per task", rounds=per_task, must=0.06, goal=0.06)
    for tasks in MANY_TASKS:
        seconds, requests = _rounds(databases, folder, tasks, 1)
        what = f"{tasks:,} stale tasks: until settled"
        yield Row(key=f"stale_{tasks}_s", what=what, rounds=seconds, unit="s", must=MANY_SECONDS, goal=MANY_SECONDS / 2)
        yield Row(
            key=f"stale_{tasks}_requests",
            what="… requests to the provider",
            rounds=requests,
            must=MANY_REQUESTS,
            goal=MANY_REQUESTS / 2,
        )


def _rounds(databases: Databases, folder: Path, tasks: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds and the requests of each round."""
    seconds: list[float] = []
    requests: list[float] = []
    for number in range(rounds):
        took, count = _round(databases, folder, tasks)
        seconds.append(took)
        requests.append(count)
        say(f"round {number + 1}: {tasks} stale tasks settled in {took:.2f} s with {count} requests")
    return seconds, requests


def _round(databases: Databases, folder: Path, tasks: int) -> tuple[float, int]:
    """Return the seconds that it took, and how many requests the provider got."""
    url = migrated(databases, "stale")
    write(url, (Change(result=None, task=_unreported(number)) for number in range(tasks)))
    with servers.module(folder, "provider", "bench.provider", str(tasks)) as provider:
        at = f"http://127.0.0.1:{provider.port}"
        with servers.homing(folder, "homing_stale", servers.homing_settings(url, kling_base_url=at)):
            engine = create_engine(url)
            try:
                took = _settled(engine, _due_soon(engine))
            finally:
                engine.dispose()
        with urlopen(f"{at}/polls", timeout=10) as reply:
            return took, int(json.load(reply)["polls"])


def _due_soon(engine: Engine) -> datetime:
    """Set one due time for all tasks, directly in the database."""
    due = datetime.now(UTC) + LEAD_TIME
    microseconds = (due - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET next_poll_at = :due"), {"due": microseconds})
    return due


def _settled(engine: Engine, due: datetime) -> float:
    """Wait until every task is recorded as succeeded. Return the seconds since ``due``."""
    open_ones = text("SELECT count(*) FROM tasks WHERE status <> 'succeeded'")
    while True:
        with engine.connect() as connection:
            left = connection.execute(open_ones).scalar_one()
        since = (datetime.now(UTC) - due).total_seconds()
        if not left:
            return since
        if since > MAX_SECONDS:
            raise Broken(f"{left} stale tasks are not settled after {since:.0f} s")
        time.sleep(CHECK_SECONDS)


def _unreported(number: int) -> Task:
    """Return a task that the provider accepted a minute ago, without any report since."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    return replace(
        subjects.expected(number),
        origin="submit",
        status=Status.SUBMITTED,
        provider_task_id=deliveries.provider_id(number),
        created_at=at,
        updated_at=at,
        submitted_at=at,
        deadline_at=at + timedelta(hours=24),
    )
