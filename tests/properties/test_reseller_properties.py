"""Test random submission histories against random resellers: no request is charged twice.

A reseller echoes external IDs or not. It finds tasks by them or denies every one with the exact error text. It refuses
a repeated ID or creates a second task. Replies get lost, tasks appear late, and clients send again.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import OMNI
from tests.support.databases import sqlite_url
from tests.support.examples import examples
from tests.support.fakes import Clock, FakeKling
from tracker.app import create_tracker, reconciler_of
from tracker.errors import CredentialRefused, ProviderUnavailable, Refused
from tracker.model.records import TaskFilter
from tracker.model.task import ClientIdentity, Status
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

CLIENT = ClientIdentity(name="studio", sees_all=True)
ENDINGS = ("accepted", "reply lost", "made late", "nothing made", "repeated", "refused", "not sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseller:
    echoes: bool
    looks_up: bool
    refuses_taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One new or repeated request, the outcomes of it and of Homing's resubmissions, and the time that then passes."""

    request: int
    endings: tuple[str, ...]
    seconds: int
    rounds: int


resellers = st.builds(Reseller, echoes=st.booleans(), looks_up=st.booleans(), refuses_taken=st.booleans())
steps = st.builds(
    Step,
    request=st.integers(0, 4),
    endings=st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3).map(tuple),
    seconds=st.sampled_from([1, 20, 60, 300]),
    rounds=st.integers(0, 4),
)


@given(reseller=resellers, history=st.lists(steps, min_size=2, max_size=7))
@settings(max_examples=examples(25))
@pytest.mark.timeout(300)
def test_reseller_never_charges_a_request_twice(reseller: Reseller, history: Sequence[Step]) -> None:
    asyncio.run(_lived(reseller, history))


async def _lived(reseller: Reseller, history: Sequence[Step]) -> None:
    clock = Clock()
    kling = FakeKling(
        clock=clock, echoes=reseller.echoes, looks_up=reseller.looks_up, refuses_taken=reseller.refuses_taken
    )
    with TemporaryDirectory() as folder:
        chosen = Settings(
            database_url=sqlite_url(Path(folder)),
            kling_base_url="https://kling.example",
            kling_api_key="made-up-key",
        )
        quick = Policy(busy_delay=timedelta(), budget=6_000, client_budget=6_000, fresh=timedelta())
        async with create_tracker(
            chosen, policy=quick, clock=clock, monotonic=clock.monotonic, transport=kling
        ) as tracker:
            reconciler = reconciler_of(tracker)
            for step in history:
                # A transport that repeats a create where duplicates are made charges twice by itself.
                kling.plan = [how for how in step.endings if how != "repeated" or reseller.refuses_taken]
                await _submit(tracker, kling, step.request)
                for _ in range(step.rounds):
                    clock.advance(timedelta(seconds=step.seconds))
                    await reconciler.run_once()
                    _charged_once(kling)
                kling.plan = []
            for _ in range(6):
                clock.advance(timedelta(minutes=10))
                await reconciler.run_once()
            _charged_once(kling)
            await _report_the_truth(tracker, kling, reseller)


async def _submit(tracker: Tracker, kling: FakeKling, request: int) -> None:
    prompt = f"request {request}"
    order = tracker.order("kling", OMNI, {"prompt": prompt, "external_task_id": prompt})
    try:
        await tracker.submit(CLIENT, "kling", order)
    except (Refused, ProviderUnavailable, CredentialRefused):
        # An error says that nothing was created, and frees the id.
        assert all(made.prompt != prompt for made in kling.ledger)


def _charged_once(kling: FakeKling) -> None:
    assert max(Counter(made.prompt for made in kling.ledger).values(), default=0) <= 1


async def _report_the_truth(tracker: Tracker, kling: FakeKling, reseller: Reseller) -> None:
    """Check that no row denies an existing provider task, and that lookups by external ID find all tasks."""
    made = {one.external_id: one.id for one in kling.ledger}
    for task in (await tracker.find(TaskFilter(), client=CLIENT, limit=100)).tasks:
        if task.sent_external_id in made:
            assert task.status is not Status.REJECTED
            assert not reseller.looks_up or task.provider_task_id == made[task.sent_external_id]
