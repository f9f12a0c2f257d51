"""The real Tracker on SQLite, driven against a small model of its world: clients, a provider, crashes and the clock.

The provider creates no request twice, acknowledged data is never lost, and a client sees only its own tasks.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.builders import OMNI
from tests.support.databases import sqlite_url
from tests.support.examples import examples
from tests.support.fakes import Clock, FakeKling, Made
from tracker.app import create_tracker, reconciler_of
from tracker.errors import Conflict, CredentialRefused, NotFound, ProviderUnavailable, Refused
from tracker.model.records import Arrived, TaskFilter
from tracker.model.task import FINAL, ClientIdentity, Flaw, Observation, Source, Status, Task, Trust
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

CLIENTS = [ClientIdentity(name="studio"), ClientIdentity(name="other")]
OPERATOR = ClientIdentity(name="operator", sees_all=True)
ENDS = {"succeed": Status.SUCCEEDED, "failed": Status.FAILED}
PLANS = [
    [],
    ["not sent"],
    ["reply lost"],
    ["made late"],
    ["nothing made"],
    ["refused"],
    ["busy"],
    ["credential"],
    ["not sent", "reply lost"],
    ["nothing made", "reply lost"],
    ["nothing made", "busy", "credential"],
]
ALL = TaskFilter()
# A rule draws a number, not an object: Hypothesis draws must not depend on jitter and IDs.
PICKS = st.integers(0, 999)
T = TypeVar("T")


def picked(things: Iterable[T], pick: int) -> list[T]:
    """Return the item that a number selects, or an empty list if there are no items."""
    every = list(things)
    return [every[pick % len(every)]] if every else []


@dataclass(slots=True, kw_only=True)
class ClientRequest:
    """One request that the provider must create once.

    A re-sent POST of a ``named`` one can be recognised at any time; one that a dead process never ``answered`` for a
    while (``Policy.resend_window``), which is when clients re-send.
    """

    client: ClientIdentity
    body: dict[str, Any]
    key: str | None
    sent_at: datetime
    answered: bool = True
    task_id: str | None = None

    @property
    def named(self) -> bool:
        return self.key is not None or "external_task_id" in self.body


class World(RuleBasedStateMachine):
    """Clients, a provider, an operator, a network that replays and forges, and processes that die."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name) / "homing.db"
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.kling = FakeKling(clock=self.clock)
        self.requests: list[ClientRequest] = []
        self.request_count = 0
        self.acknowledged: dict[str, ClientIdentity] = {}
        self.deliveries: list[tuple[str, bytes]] = []
        self.seen: dict[str, Task] = {}
        self.runner.run(self.start())

    async def start(self) -> None:
        chosen = Settings(
            database_url=sqlite_url(self.file.parent),
            kling_base_url="https://kling.example",
            kling_api_key="made-up-key",
            public_url="https://homing.example",
        )
        quick = Policy(busy_delay=timedelta(), budget=6_000, client_budget=6_000, fresh=timedelta())
        self.tracker: Tracker = create_tracker(
            chosen, policy=quick, clock=self.clock, monotonic=self.clock.monotonic, transport=self.kling
        )
        await self.tracker.__aenter__()
        self.reconciler = reconciler_of(self.tracker)

    async def die(self) -> None:
        """End as a killed process does: unfinished work stops and nothing is delivered."""
        # A canceled task may start another one, which a killed process cannot do.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await self.tracker.store.close()
        await self.start()

    # ---- clients

    @rule(
        client=st.sampled_from(CLIENTS),
        naming=st.sampled_from(["external", "idempotency", "nothing"]),
        number=st.integers(0, 2),
        plan=st.sampled_from(PLANS),
    )
    def submit(self, client: ClientIdentity, naming: str, number: int, plan: list[str]) -> None:
        body = self.request_body()
        if naming == "external":
            body["external_task_id"] = f"order-{number}"
        key = f"key-{number}" if naming == "idempotency" else None
        request = ClientRequest(client=client, body=body, key=key, sent_at=self.clock())
        self.requests.append(request)
        self.runner.run(self.send(request, plan))

    @rule(pick=PICKS, plan=st.sampled_from(PLANS))
    def send_again(self, pick: int, plan: list[str]) -> None:
        for request in picked([request for request in self.requests if self.is_recognized(request)], pick):
            self.runner.run(self.send(request, plan))

    async def send(self, request: ClientRequest, plan: list[str]) -> None:
        self.kling.plan = list(plan)
        order = self.tracker.order("kling", OMNI, dict(request.body))
        try:
            task = await self.tracker.submit(
                request.client, "kling", order, idempotency_key=request.key, answered_later=True
            )
        except Conflict:
            assert await self.another_task_has_its_key(request)
            self.requests.remove(request)
        except (Refused, CredentialRefused, ProviderUnavailable):
            assert self.made(request) == []
        else:
            await self.tracker.answered(task.id)
            before = request.task_id and await self.tracker.get(OPERATOR, request.task_id)
            assert not before or before.status is Status.REJECTED or before.id == task.id
            request.task_id, request.answered = task.id, True
            self.acknowledged[task.id] = request.client
        self.kling.plan = []

    @rule(
        client=st.sampled_from(CLIENTS),
        how=st.sampled_from(["hangs", "hangs unsent"]),
        named=st.booleans(),
        twice=st.booleans(),
    )
    def submit_and_die(self, client: ClientIdentity, how: str, *, named: bool, twice: bool) -> None:
        body = self.request_body()
        key = f"key of {body['prompt']}" if named else None
        request = ClientRequest(client=client, body=body, key=key, sent_at=self.clock(), answered=False)
        self.requests.append(request)
        self.runner.run(self.send_and_die(request, how))
        if twice:
            self.runner.run(self.send(request, ["reply lost"]))

    async def send_and_die(self, request: ClientRequest, how: str) -> None:
        self.kling.plan, self.kling.hanging = [how], asyncio.Event()
        order = self.tracker.order("kling", OMNI, dict(request.body))
        sending = asyncio.create_task(
            self.tracker.submit(request.client, "kling", order, idempotency_key=request.key, answered_later=True)
        )
        await self.kling.hanging.wait()
        await self.die()
        assert sending.cancelled()

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 2))
    def expect(self, client: ClientIdentity, number: int) -> None:
        async def announce() -> None:
            with suppress(Conflict):
                expected = await self.tracker.expect(
                    client, provider="kling", kind=OMNI, external_id=f"{client.name}-{number}"
                )
                self.acknowledged[expected.task.id] = client

        self.runner.run(announce())

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 2), adopted=st.booleans())
    def submit_elsewhere(self, client: ClientIdentity, number: int, *, adopted: bool) -> None:
        """Make a task with a client's own code, under an id that it may have announced."""
        name = f"{client.name}-{number}"
        if any(made.external_id == name for made in self.kling.ledger):
            return
        made = Made(id=f"kling-{len(self.kling.ledger) + 1}", external_id=name, prompt=name, made_at=self.clock())
        self.kling.ledger.append(made)
        if adopted:
            with suppress(NotFound, ProviderUnavailable):
                task = self.runner.run(
                    self.tracker.adopt(client, provider="kling", kind=OMNI, provider_task_id=made.id)
                )
                self.acknowledged[task.id] = client

    # ---- the provider and its callbacks

    @rule(pick=PICKS, status=st.sampled_from(["processing", *ENDS]))
    def progress(self, pick: int, status: str) -> None:
        for made in picked([made for made in self.kling.existing() if made.status not in ENDS], pick):
            made.status = status

    @rule(down=st.booleans())
    def provider_goes_down_or_up(self, *, down: bool) -> None:
        self.kling.down = down

    @rule(
        pick=PICKS,
        other=PICKS,
        body=st.sampled_from(["own", "own", "another's", "unreadable", "unknown word"]),
        trust=st.sampled_from([Trust.TOKEN, Trust.TOKEN, Trust.UNVERIFIED]),
        times=st.integers(1, 3),
    )
    def deliver(self, pick: int, other: int, body: str, trust: Trust, times: int) -> None:
        for task_id in picked(self.acknowledged, pick):
            own = self.sent_as(task_id)
            targets = [made for made in self.kling.existing() if (made.external_id == own) == (body != "another's")]
            for made in picked(targets, other):
                self.arrive(task_id, made, body, trust, times)

    def arrive(self, task_id: str, made: Made, body: str, trust: Trust, times: int) -> None:
        raw = self.kling.body(made)
        if body == "unreadable":
            raw = raw[:-1]
        elif body == "unknown word":
            raw = raw.replace(b'"task_status":', b'"task_status": "odd", "was":')
        for _ in range(times):
            self.runner.run(self.record(task_id, raw, trust))

    async def record(self, task_id: str, raw: bytes, trust: Trust) -> None:
        report = self.tracker.providers["kling"].provider.read_callback(raw)
        flaw = Flaw.UNSIGNED if trust is Trust.UNVERIFIED else None
        observation = Observation(
            source=Source.CALLBACK, trust=trust, report=report, at=self.clock(), body=raw, flaw=flaw
        )
        recorded = await self.tracker.record(Arrived(provider="kling", observation=observation, task_id=task_id))
        assert recorded.task_id == task_id
        self.deliveries.append((task_id, raw))

    # ---- the operator, the loop, the clock, the process

    @rule(pick=PICKS)
    def poll(self, pick: int) -> None:
        for task_id in picked(self.acknowledged, pick):
            self.runner.run(self.tracker.poll(OPERATOR, task_id))

    @rule(pick=PICKS, status=st.sampled_from([Status.REJECTED, Status.EXPIRED]))
    def resolve(self, pick: int, status: Status) -> None:
        """Resolve a task manually. An operator rejects only tasks that the provider never created."""
        for task_id in picked(self.acknowledged, pick):
            sent = self.sent_as(task_id)
            if status is Status.EXPIRED or all(made.external_id != sent for made in self.kling.ledger):
                with suppress(Conflict):
                    self.runner.run(self.tracker.resolve(OPERATOR, task_id, status=status))

    @rule(seconds=st.sampled_from([5, 1, 20, 45, 300, 7200]), rounds=st.integers(1, 5), plan=st.sampled_from(PLANS))
    def time_passes(self, seconds: int, rounds: int, plan: list[str]) -> None:
        self.kling.plan = list(plan)
        for _ in range(rounds):
            self.clock.advance(timedelta(seconds=seconds))
            counts = self.runner.run(self.reconciler.run_once())
            assert counts.failed == 0
        self.kling.plan = []

    @rule()
    def restart(self) -> None:
        async def again() -> None:
            await self.tracker.__aexit__(None, None, None)
            await self.start()

        self.runner.run(again())

    @rule()
    def crash(self) -> None:
        self.runner.run(self.die())

    # ---- invariants

    @invariant()
    def no_request_is_made_twice(self) -> None:
        by_id = Counter(made.external_id for made in self.kling.ledger)
        by_prompt = Counter(made.prompt for made in self.kling.ledger)
        assert max(by_id.values(), default=0) <= 1
        assert max(by_prompt.values(), default=0) <= 1

    @invariant()
    def each_client_sees_its_own_and_only_that(self) -> None:
        self.runner.run(self.check_views())

    async def check_views(self) -> None:
        for client in CLIENTS:
            page = await self.tracker.find(ALL, client=client, limit=1000)
            shown = {task.id: task for task in page.tasks}
            assert all(task.client == client.name for task in page.tasks)
            assert {task_id for task_id, owner in self.acknowledged.items() if owner == client} <= set(shown)
            live = [task for task in page.tasks if task.status is not Status.REJECTED]
            names = [task.external_id for task in live if task.external_id is not None and not task.released]
            assert len(names) == len(set(names))
            for task in page.tasks:
                self.compare(task)
            for task in page.tasks[:1]:
                with pytest.raises(NotFound):
                    await self.tracker.get(next(each for each in CLIENTS if each != client), task.id)

    def compare(self, task: Task) -> None:
        before = self.seen.get(task.id, task)
        assert task.version >= before.version
        assert (task.version > before.version) or (task.status is before.status)
        assert before.status not in FINAL or task.status in FINAL
        assert before.provider_task_id in {None, task.provider_task_id}
        self.seen[task.id] = task

    # ---- the end

    def teardown(self) -> None:
        try:
            self.runner.run(self.finish_and_compare())
        finally:
            self.runner.run(self.tracker.__aexit__(None, None, None))
            self.runner.close()
            self.folder.cleanup()

    async def finish_and_compare(self) -> None:
        """Let every task end at a healthy provider, and compare the tasks with the provider's ledger."""
        self.kling.down, self.kling.plan = False, []
        for _ in range(8):
            await self.rounds(4, timedelta(minutes=1))
            for made in self.kling.existing():
                made.status = made.status if made.status in ENDS else "succeed"
            await self.rounds(2, timedelta(minutes=12))
        self.no_request_is_made_twice()
        await self.check_views()
        truth = {made.external_id: made for made in self.kling.ledger}
        for task in (await self.tracker.find(ALL, client=OPERATOR, limit=1000)).tasks:
            true = truth.get(task.sent_external_id or "")
            ended_by_us = task.status is Status.EXPIRED or await self.was_ended_by_operator(task)
            if true is not None and not ended_by_us:
                assert task.status is ENDS[true.status]
                # A task that a callback finished was never polled, and only poll answers verify a provider task ID.
                unasked = task.status_trust is not Trust.PROVIDER and task.poll_count == 0
                assert task.provider_task_id == true.id or (unasked and task.provider_task_id is None)
            assert true is not None or task.status not in FINAL
        for task_id, body in self.deliveries:
            _, history = await self.tracker.history(OPERATOR, task_id)
            assert body in {entry.body for entry in history}
        self.check_events()

    async def was_ended_by_operator(self, task: Task) -> bool:
        """Return whether the operator's decision is the last observation of a task. Such a task is not polled."""
        _, history = await self.tracker.history(OPERATOR, task.id)
        return task.status is Status.REJECTED and history[-1].source is Source.OPERATOR

    async def rounds(self, count: int, step: timedelta) -> None:
        for _ in range(count):
            self.clock.advance(step)
            await self.reconciler.run_once()

    def check_events(self) -> None:
        with closing(sqlite3.connect(self.file)) as database:
            rows = database.execute("SELECT task_id, sequence FROM events ORDER BY id").fetchall()
        for task_id, task in self.seen.items():
            sequences = [sequence for event_of, sequence in rows if event_of == task_id]
            assert sequences == list(range(2, 2 + len(sequences)))
            assert not sequences or sequences[-1] >= task.version

    # ---- asking the model

    def request_body(self) -> dict[str, Any]:
        self.request_count += 1
        return {"prompt": f"request {self.request_count}"}

    def is_recognized(self, request: ClientRequest) -> bool:
        recent = self.clock() - request.sent_at < self.tracker.policy.resend_window
        return request.named or (recent and not request.answered)

    def made(self, request: ClientRequest) -> list[Made]:
        return [made for made in self.kling.ledger if made.prompt == request.body["prompt"]]

    def sent_as(self, task_id: str) -> str | None:
        task = self.runner.run(self.tracker.get(OPERATOR, task_id))
        return task.sent_external_id

    async def another_task_has_its_key(self, request: ClientRequest) -> bool:
        name = request.body.get("external_task_id")
        tasks = (await self.tracker.find(ALL, client=request.client, limit=1000)).tasks
        return any(
            not task.released
            and ((name and task.external_id == name) or (request.key and task.idempotency_key == request.key))
            for task in tasks
        )


World.TestCase.settings = settings(max_examples=examples(12), stateful_step_count=30)
# Passing takes seconds; making a failure small takes minutes, and is worth them.
TestWorld = pytest.mark.timeout(900)(World.TestCase)
