"""Shared suite of poisoned batches, run on each database: a bad change must not harm the rest of its batch."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from math import log2
from random import Random
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homing.server.web_server import address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.suites.store_case import refusing
from tests.support.builders import Deciding, a_task, an_entry, an_event, writing
from tests.support.callback_senders import CALLBACK_SECRET, WEBHOOK_SECRET, Delivery, Senders, deliveries, tasks
from tests.support.conditions import until
from tests.support.fakes import GatedStore
from tracker.app import create_tracker
from tracker.errors import Conflict, ServiceError
from tracker.model.changes import Change, Known, Work
from tracker.model.task import Status, Task, Verdict
from tracker.service.recorder import Recorder
from tracker.settings import Settings
from tracker.storage.store import Store

MANY = 48
LIMIT = ReceiverSettings().body_limit


def raising(error: Exception) -> Work[Any]:
    def decide(_: Known) -> Change[Any]:
        raise error

    return Deciding(keys=frozenset(), decide=decide)


NOTHING: Any = None
# Pieces that no database takes, each a fresh one for the task of a number.
REFUSED: dict[str, Callable[[Task], Work[Any]]] = {
    "a lone surrogate": lambda task: writing(replace(task, reason="\ud800")),
    "a lone surrogate in JSON": lambda task: writing(replace(task, request={"prompt": "\udfff"})),
    "a number beyond 64 bits": lambda task: writing(replace(task, poll_count=2**63)),
    "a number of 400 digits": lambda task: writing(replace(task, version=10**400)),
    "an observation of nobody": lambda task: writing(None, entries=(an_entry(task, "one"),)),
    "a name that is taken": lambda task: writing(replace(task, external_id="taken")),
    "a repeated event": lambda task: writing(task, events=(an_event(task, 2), an_event(task, 2))),
    "no value where there must be one": lambda task: writing(replace(task, kind=NOTHING)),
    "a decision that breaks": lambda _: raising(RuntimeError("a bug")),
    "a decision without an end": lambda _: raising(RecursionError()),
    "a decision that gives nothing": lambda _: Deciding(keys=frozenset(), decide=lambda _: NOTHING),
}
# Values that one database refuses and the other may accept.
PARTLY: dict[str, Callable[[Task], Work[Any]]] = {
    "a NUL": lambda task: writing(replace(task, reason="a\0b")),
    "a number beyond 32 bits": lambda task: writing(replace(task, poll_count=2**31)),
    "more than an index holds": lambda task: writing(
        replace(task, external_id="".join(Random(task.id).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9_000)))
    ),
}


class CountingStore(Store):
    """Count the batches and their changes."""

    batches = 0
    pieces = 0

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        self.batches += 1
        self.pieces += len(works)
        return await super().apply(works)


@asynccontextmanager
async def recording(store: Store) -> AsyncIterator[Recorder]:
    recorder = Recorder(store)
    await recorder.open()
    try:
        yield recorder
    finally:
        await recorder.close()


async def applied(recorder: Recorder, works: Sequence[Work[Any]]) -> list[Any]:
    return await asyncio.gather(*(recorder.apply(work) for work in works), return_exceptions=True)


class PoisonedBatches:
    """Straight into the recorder: pieces whose values or decisions are bad, among good ones."""

    @pytest.mark.parametrize("name", [*REFUSED, *PARTLY])
    async def test_bad_change_fails_alone(self, store: Store, name: str) -> None:
        await store.apply([writing(a_task(MANY + 1, external_id="taken"))])
        made = {number: a_task(number) for number in range(1, MANY + 1)}
        bad = Random(name).sample(range(1, MANY + 1), 3)
        poison = (REFUSED | PARTLY)[name]
        works = [poison(task) if number in bad else writing(task) for number, task in made.items()]
        async with recording(store) as recorder:
            answers = dict(zip(made, await applied(recorder, works), strict=True))
            assert await recorder.apply(writing(a_task(MANY + 2))) == a_task(MANY + 2)
        failed = [number for number, answer in answers.items() if isinstance(answer, BaseException)]
        assert failed in ([sorted(bad)] if name in REFUSED else [sorted(bad), []])
        assert {type(answers[number]) for number in failed} <= {ServiceError}
        for number, task in made.items():
            kept = await store.tasks.get(task.id)
            assert (kept is None) == (number in failed), number

    async def test_bad_changes_in_any_order_spare_good_ones(self, store: Store) -> None:
        await store.apply([writing(a_task(1, external_id="taken"))])
        for seed in range(3):
            chance = Random(seed)
            numbers = range(1000 * (seed + 1), 1000 * (seed + 1) + MANY)
            pieces: list[tuple[str, Work[Any]]] = [("good", writing(a_task(number))) for number in numbers]
            pieces += [("bad", poison(a_task(n))) for n, poison in enumerate(REFUSED.values(), numbers.stop)]
            pieces += [("theirs", refusing())] * 3
            chance.shuffle(pieces)
            async with recording(store) as recorder:
                answers = await applied(recorder, [work for _, work in pieces])
            expected = {"good": Task, "bad": ServiceError, "theirs": Conflict}
            assert [type(answer) for answer in answers] == [expected[name] for name, _ in pieces], f"seed {seed}"
            assert all([await store.tasks.get(a_task(number).id) is not None for number in numbers])

    @pytest.mark.parametrize("bad", [1, 8, 128])
    async def test_halving_costs_at_most_its_depth(self, url: str, bad: int) -> None:
        size = 128
        store = CountingStore(url)
        await store.open()
        places = set(Random(bad).sample(range(size), bad))
        works = [raising(ValueError()) if place in places else writing(a_task(place)) for place in range(size)]
        async with recording(store) as recorder:
            answers = await applied(recorder, works)
        await store.close()
        assert sum(isinstance(answer, ServiceError) for answer in answers) == bad
        # A piece is tried once on each floor of the halving, and a batch fails only for a bad piece in it.
        assert store.pieces <= size * (log2(size) + 1)
        assert store.batches <= 1 + 2 * bad * (log2(size) - log2(bad) + 1)


def bodies(task: Task) -> dict[str, bytes]:
    """Return bodies that a hostile sender may post: unreadable or out of bounds."""
    (plain,) = (delivery.body for delivery in deliveries(task, ["succeed"]))
    body = json.loads(plain)
    huge = 10**400
    return {
        "an escaped NUL": json.dumps(body | {"task_status_msg": "a\0b"}).encode(),
        "a NUL": plain.replace(b"succeed", b"suc\0ceed"),
        "a lone surrogate": json.dumps(body | {"task_status_msg": "\ud800"}).encode(),
        "a surrogate in a name": json.dumps(body | {"\udfff": 1}).encode(),
        "a huge integer": json.dumps(body | {"final_unit_deduction": huge - 1}).encode(),
        "a huge float": plain[:-1] + b', "final_unit_deduction": 1e999}',
        "more digits than Python reads": plain[:-1] + b', "final_unit_deduction": ' + b"9" * 9_000 + b"}",
        "deep lists": plain[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep objects": plain[:-1] + b', "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        "no UTF-8": plain.replace(b"https", b"htt\xff\xfeps"),
        "overlong UTF-8": plain.replace(b"https", b"htt\xc0\x80ps"),
        "a truncated object": plain[:-20],
        "nothing": b"",
        "no object": b'"succeed"',
    }


# Readable reports: odd values in unimportant fields must not lose a result.
def tolerated(task: Task) -> dict[str, bytes]:
    (plain,) = (delivery.body for delivery in deliveries(task, ["succeed"]))
    parsed = json.loads(plain)
    return {
        "an absurd year": json.dumps(parsed | {"updated_at": 2**62, "created_at": -(2**62)}).encode(),
        "a year as text": json.dumps(parsed | {"updated_at": "9" * 18}).encode(),
        "as long as allowed": plain.ljust(LIMIT),
    }


class Arrivals:
    """An app that counts the requests that have come whole to the one behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.whole = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            self.whole += message["type"] == "http.request" and not message.get("more_body", False)
            return message

        await self._app(scope, counted, send)


@asynccontextmanager
async def received(url: str) -> AsyncIterator[tuple[GatedStore, Arrivals, Senders]]:
    """Serve the callback route over one database, whose batches wait for a gate."""
    store = GatedStore(url)
    settings = Settings(
        database_url=url,
        kling_base_url="http://127.0.0.1:9",
        callback_secrets=(CALLBACK_SECRET.encode(),),
        kling_webhook_secrets=(WEBHOOK_SECRET,),
    )
    tracker = create_tracker(settings, store=store)
    with closing(listen("127.0.0.1", 0)) as listener:
        app = Arrivals(create_receiver(tracker, ReceiverSettings.from_settings(settings)))
        async with tracker, running(app, listener):
            yield store, app, Senders(port=int(address(listener).rpartition(":")[2]), count=2 * MANY)


class PoisonedDeliveries:
    """Through the endpoint, over HTTP, at the same time as good ones."""

    async def test_unreadable_callback_is_kept_and_harms_no_other(self, url: str) -> None:
        good = tasks(1, MANY)
        hostile = tasks(1001, len(bodies(good[0])))
        odd = tasks(2001, len(tolerated(good[0])))
        beyond = tasks(3001, 1)
        sent = [delivery for task in good for delivery in deliveries(task, ["succeed"])]
        for group, make in ((hostile, bodies), (odd, tolerated)):
            for task, (name, body) in zip(group, make_all(group, make), strict=True):
                sent.append(Delivery(task_id=task.id, webhook_id=name.replace(" ", "_"), body=body))
        too_long = Delivery(task_id=beyond[0].id, webhook_id="too_long", body=b" " * (32 * 1024 * 1024 - 1))
        Random(1).shuffle(sent)
        async with received(url) as (store, arrivals, senders):
            store.gate.set()
            await store.apply([writing(task) for task in [*good, *hostile, *odd, *beyond]])
            store.batches.clear()
            store.gate.clear()
            sending = asyncio.create_task(senders.send([*sent, too_long]))

            async def all_there() -> bool:
                return arrivals.whole == len(sent)

            await until(all_there)
            store.gate.set()
            assert await sending == [too_long]
            assert max(store.batches) > len(hostile), "they shared no batch"
            for task in [*good, *odd]:
                kept = await store.tasks.get(task.id)
                assert kept is not None
                assert kept.status is Status.SUCCEEDED, task
            for task, (name, body) in zip(hostile, make_all(hostile, bodies), strict=True):
                kept = await store.tasks.get(task.id)
                assert kept is not None
                assert kept.status is Status.PENDING, name
                (entry,) = await store.tasks.history(task.id)
                assert (entry.verdict, entry.body) == (Verdict.UNREADABLE, body), name
            assert await store.tasks.history(beyond[0].id) == []
        assert senders.statuses == {200: len(sent), 413: 1}


def make_all(group: Sequence[Task], make: Callable[[Task], dict[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return one body for each task: about that task, bad in a way of its own."""
    return [list(make(task).items())[place] for place, task in enumerate(group)]
