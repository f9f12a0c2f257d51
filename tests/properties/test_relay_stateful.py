"""Tellers over a real SQLite store, driven against a small model of their world: a receiver, crashes, rivals, time.

Whatever happens, each task's events are first delivered in their order, and in the end everything was delivered or was
given up for a reason of its own.
"""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.builders import a_task
from tests.support.databases import sqlite_url
from tests.support.examples import examples
from tests.support.relay_harness import RelayHarness, relay_harness
from tests.support.scripted_sink import ScriptedSink
from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.timing import RELAY_TIMING
from tracker.delivery.worker import SinkWorker
from tracker.model.event import PublishedEvent

TASKS = 6
HOPELESS = Outcome(delivered=False, error="never", hopeless=True)
BUSY = Outcome(delivered=False, error="busy", retry_after=timedelta(seconds=30))
DOWN = Outcome(delivered=False, error="down")
NUMBERS = {a_task(number).id: number for number in range(1, TASKS + 1)}
ODD = {task_id for task_id, number in NUMBERS.items() if number % 2}


class World(RuleBasedStateMachine):
    """One sink whose events all go to one endpoint; ``endpoint`` is the endpoint of an event."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.open = AsyncExitStack()
        self.down: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}
        self.happened: list[PublishedEvent] = []
        self.lives = 0
        self.sleepers: list[SinkWorker] = []
        self.sink = ScriptedSink(width=4, where=self.endpoint, answer=self.answer)
        self.runner.run(self.start())

    async def start(self) -> None:
        timing = replace(
            RELAY_TIMING, page=7, hurry=timedelta(), settle=timedelta(hours=1), grace=timedelta(seconds=20)
        )
        self.relay_harness: RelayHarness = await self.open.enter_async_context(
            relay_harness(sqlite_url(Path(self.folder.name)), timing)
        )
        self.worker = await self.claimed()

    async def claimed(self) -> SinkWorker:
        self.lives += 1
        worker = await self.relay_harness.worker(self.sink, f"life {self.lives}")
        worker.hold(float("inf"))
        return worker

    def endpoint(self, event: PublishedEvent) -> str | None:
        del event
        return self.sink.name

    def answer(self, event: PublishedEvent) -> Outcome:
        if self.endpoint(event) in self.down:
            return DOWN
        return self.outcomes.get(event.id, DELIVERED)

    # ---- what happens

    @rule(tasks=st.lists(st.integers(1, TASKS), min_size=1, max_size=12))
    def events_happen(self, tasks: list[int]) -> None:
        self.happened += self.runner.run(self.relay_harness.happen(*tasks))

    @precondition(lambda self: self.happened)
    @rule(pick=st.integers(0, 1_000), outcome=st.sampled_from([DOWN, DOWN, BUSY, HOPELESS]))
    def an_event_is_refused_from_now_on(self, pick: int, outcome: Outcome) -> None:
        self.outcomes[self.happened[-1 - pick % min(len(self.happened), 5)].id] = outcome

    @rule()
    def refused_events_are_taken_from_now_on(self) -> None:
        self.outcomes = {key: outcome for key, outcome in self.outcomes.items() if outcome.hopeless}

    @rule(endpoints=st.sets(st.sampled_from(["shop", "odd", "even"])))
    def receivers_go_down_or_up(self, endpoints: set[str]) -> None:
        self.down = endpoints

    @rule(seconds=st.sampled_from([1, 2, 5, 30, 600, 4_000]))
    def time_passes(self, seconds: int) -> None:
        self.relay_harness.clock.advance(timedelta(seconds=seconds))

    # ---- what is done

    @rule(pages=st.integers(1, 4))
    def new_ones_are_told(self, pages: int) -> None:
        for _ in range(pages):
            self.runner.run(self.relay_harness.deliver_new(self.worker))

    @rule()
    def owed_ones_are_told(self) -> None:
        self.runner.run(self.has_pending())

    async def has_pending(self) -> None:
        await self.worker.pending.hurry()
        await self.worker.pending.deliver()

    @rule()
    def it_is_written_down(self) -> None:
        self.runner.run(self.worker.finish())

    @rule()
    def it_dies(self) -> None:
        self.runner.run(self.die())

    async def die(self) -> None:
        """Be forgotten in the middle of whatever it was, and be followed by another."""
        self.relay_harness.clock.advance(RELAY_TIMING.lease)
        self.worker = await self.claimed()

    @rule()
    def it_falls_asleep(self) -> None:
        """As dying, but for the awakening: it does not know that its lease is over."""
        self.sleepers.append(self.worker)
        self.it_dies()

    @precondition(lambda self: self.sleepers)
    @rule(has_pending=st.booleans())
    def a_sleeper_wakes_up(self, *, has_pending: bool) -> None:
        sleeper = self.sleepers.pop()
        before = self.runner.run(self.relay_harness.state())
        self.runner.run(self.wake(sleeper, has_pending=has_pending))
        assert self.runner.run(self.relay_harness.state()) == before

    async def wake(self, sleeper: SinkWorker, *, has_pending: bool) -> None:
        if has_pending:
            await sleeper.pending.deliver()
        else:
            await self.relay_harness.deliver_new(sleeper)
        await sleeper.finish()

    # ---- what must always hold

    @invariant()
    def each_task_is_told_in_order(self) -> None:
        first: dict[str, list[int]] = defaultdict(list)
        for event in self.sink.received:
            if event.sequence not in first[event.subject]:
                first[event.subject].append(event.sequence)
        for sequences in first.values():
            assert sequences == sorted(sequences)

    @invariant()
    def no_more_was_sent_at_once_than_the_sink_takes(self) -> None:
        assert self.sink.most <= self.sink.width

    # ---- the end

    def teardown(self) -> None:
        try:
            self.runner.run(self.come_home())
            self.each_task_is_told_in_order()
        finally:
            self.runner.run(self.open.aclose())
            self.runner.close()
            self.folder.cleanup()

    async def come_home(self) -> None:
        self.down = set()
        self.outcomes = {key: outcome for key, outcome in self.outcomes.items() if outcome.hopeless}
        for _ in range(60):
            await self.relay_harness.deliver_all_new(self.worker)
            await self.worker.pending.hurry()
            await self.relay_harness.deliver_all_pending(self.worker)
            await self.worker.finish()
            state = await self.relay_harness.state()
            if not (state.behind or state.waiting):
                break
            self.relay_harness.clock.advance(timedelta(minutes=30))
        state = await self.relay_harness.state()
        assert (state.behind, state.waiting) == (0, 0)
        dead = {delivery.event_id for delivery in await self.relay_harness.dead_letters()}
        hopeless = {key for key, outcome in self.outcomes.items() if outcome.hopeless}
        assert dead <= hopeless
        received = {event.id for event in self.sink.received}
        assert received | dead == {event.id for event in self.happened}


class Circuits(World):
    """One sink with two receivers."""

    def endpoint(self, event: PublishedEvent) -> str | None:
        return "odd" if event.subject in ODD else "even"


World.TestCase.settings = settings(max_examples=examples(25), stateful_step_count=30)
Circuits.TestCase.settings = settings(max_examples=examples(25), stateful_step_count=30)
# Passing takes seconds; making a failure small takes minutes, and is worth them.
TestOneReceiver = pytest.mark.timeout(900)(World.TestCase)
TestTwoReceivers = pytest.mark.timeout(900)(Circuits.TestCase)
