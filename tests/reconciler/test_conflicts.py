"""The whole tracker with a contradictory provider: the true status wins, and open conflicts are shown."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.builders import OMNI
from tests.support.databases import sqlite_url
from tests.support.fakes import Clock, FakeKling
from tracker.app import create_tracker, reconciler_of
from tracker.model.records import Arrived
from tracker.model.task import ClientIdentity, Observation, Source, Status, Task, Trust
from tracker.providers.base import Account, Call, Reply
from tracker.service.tracker import Tracker
from tracker.settings import Settings

STUDIO = ClientIdentity(name="studio")


@dataclass(slots=True, kw_only=True)
class HastyKling(FakeKling):
    """A provider that sends one callback for each of ``statuses`` before it answers the create request."""

    statuses: tuple[str, ...] = ()
    tracker: Tracker | None = None

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        reply = await FakeKling.send(self, account, call, now=now, within=within)
        if call.method == "POST":
            await self.contradict()
        return reply

    async def contradict(self) -> None:
        made, truth = self.ledger[-1], self.ledger[-1].status
        for number, status in enumerate(self.statuses):
            made.status = status
            shown = json.loads(self.body(made))
            shown["updated_at"] += number
            await self.post(made.external_id, json.dumps(shown).encode())
        made.status = truth

    async def post(self, task_id: str, raw: bytes) -> None:
        assert self.tracker is not None
        report = self.tracker.providers["kling"].provider.read_callback(raw)
        observation = Observation(source=Source.CALLBACK, trust=Trust.SIGNED, report=report, at=self.clock(), body=raw)
        await self.tracker.record(Arrived(provider="kling", observation=observation, task_id=task_id))


@asynccontextmanager
async def contradicting(folder: Path, *statuses: str) -> AsyncIterator[tuple[HastyKling, Task]]:
    """Submit a task that gets callbacks with ``statuses`` before the answer to its create request."""
    clock = Clock()
    kling = HastyKling(clock=clock, statuses=statuses)
    chosen = Settings(
        database_url=sqlite_url(folder),
        kling_base_url="https://kling.example",
        kling_api_key="made-up-key",
        public_url="https://homing.example",
    )
    async with create_tracker(chosen, clock=clock, monotonic=clock.monotonic, transport=kling) as tracker:
        kling.tracker = tracker
        order = tracker.order("kling", OMNI, {"prompt": "a red bicycle"})
        yield kling, await tracker.submit(STUDIO, "kling", order)


@pytest.mark.parametrize("statuses", [("succeed", "failed"), ("failed", "succeed", "failed"), ("failed", "failed")])
@pytest.mark.parametrize("truth", ["succeed", "failed"])
async def test_callbacks_before_reply_decide_no_final_status(
    tmp_path: Path, statuses: tuple[str, ...], truth: str
) -> None:
    async with contradicting(tmp_path, *statuses) as (kling, task):
        assert kling.tracker is not None
        kling.ledger[-1].status = truth

        kling.clock.advance(timedelta(seconds=30))
        await reconciler_of(kling.tracker).run_once()

        ended = await kling.tracker.get(STUDIO, task.id)
        contradicted = len(set(statuses)) > 1
        true = {"succeed": Status.SUCCEEDED, "failed": Status.FAILED}[truth if contradicted else statuses[0]]
        assert (ended.status, ended.conflict_statuses, ended.next_poll_at) == (true, (), None)


async def test_conflict_survives_a_day_of_outage(tmp_path: Path) -> None:
    async with contradicting(tmp_path, "succeed", "failed") as (kling, task):
        assert kling.tracker is not None
        kling.ledger[-1].status, kling.down = "succeed", True
        reconciler = reconciler_of(kling.tracker)
        for _ in range(30):
            kling.clock.advance(timedelta(hours=1))
            await reconciler.run_once()

        waiting = await kling.tracker.store.tasks.get(task.id)
        assert waiting is not None
        assert waiting.next_poll_at is not None
        assert waiting.conflict_statuses == (Status.SUCCEEDED,)
        kling.down = False
        kling.clock.advance(timedelta(hours=1))
        await reconciler.run_once()

        assert (await kling.tracker.get(STUDIO, task.id)).status is Status.SUCCEEDED
