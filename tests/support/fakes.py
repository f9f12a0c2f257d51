"""Fakes: a clock that tests set, a store that waits, and a provider without a network."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

from tests.support.builders import NOW
from tracker.errors import NotSent, ReplyLost
from tracker.model.changes import Work
from tracker.model.untrusted import milliseconds
from tracker.providers.base import Account, Call, Reply
from tracker.providers.kling_helpers import HELPERS
from tracker.storage.store import Store

HELPERS_AT = frozenset(helper.path for helper in HELPERS)


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self._passed = timedelta()

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by
        self._passed += by

    def set(self, by: timedelta) -> None:
        """Set the clock by so much, forward or back: no time passes."""
        self.now += by

    def monotonic(self) -> float:
        """Return the seconds that have passed, however the clock was set."""
        return self._passed.total_seconds()


async def new_secret(name: str, fresh: bytes) -> bytes:
    """Return the new secret, as a store returns it that has none yet."""
    del name
    return fresh


class GatedStore(Store):
    """A store whose commits wait for ``gate``; ``batches`` has the number of changes of each batch."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.batches: list[int] = []

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        self.batches.append(len(works))
        self.waiting.set()
        await self.gate.wait()
        return await super().apply(works)


@dataclass(slots=True, kw_only=True)
class Made:
    """One task in the provider's ledger, which exists from ``made_at`` on."""

    id: str
    external_id: str
    prompt: str
    made_at: datetime
    status: str = "submitted"


@dataclass(slots=True, kw_only=True)
class FakeKling:
    """Kling's side of the wire as one object: a ``tracker.transport.Sender`` that answers from a ledger.

    ``plan`` says how the next submits end, first to last; without a plan they are accepted. ``down`` loses every
    question. ``echoes`` is whether replies repeat external ids, ``looks_up`` whether tasks are found by them, and
    ``refuses_taken`` whether a create with an id that is taken is refused; a gateway names the id that it gave instead.
    """

    clock: Clock
    echoes: bool = True
    looks_up: bool = True
    refuses_taken: bool = False
    down: bool = False
    plan: list[str] = field(default_factory=list)
    ledger: list[Made] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        del account, now
        await asyncio.sleep(0)
        if call.path in HELPERS_AT:
            return _reply(200, 0, data={})
        if call.method == "POST":
            return await self._submit(json.loads(call.body), within)
        if self.down:
            raise ReplyLost("the provider is down")
        if call.path == "/tasks":
            task_ids = call.query["task_ids"].split(",")
            return _reply(200, 0, data=[self._shown(made) for made in self.existing() if made.id in task_ids])
        return self._query(unquote(call.path.rsplit("/", maxsplit=1)[1]))

    def existing(self) -> list[Made]:
        return [made for made in self.ledger if made.made_at <= self.clock()]

    def body(self, made: Made) -> bytes:
        """Return the body that the provider posts to a callback URL about a task."""
        return json.dumps(self._shown(made)).encode()

    async def _submit(self, body: dict[str, Any], within: timedelta) -> Reply:
        how = self.plan.pop(0) if self.plan else "accepted"
        external_id = body["external_task_id"]
        taken = any(made.external_id == external_id for made in self.existing())
        if self.refuses_taken and taken and how in {"accepted", "repeated"}:
            return self._taken(external_id)
        if how == "repeated":
            self._make(body, timedelta())
            return self._taken(external_id) if self.refuses_taken else self._accepted(self.ledger[-1])
        if how in {"accepted", "reply lost", "made late", "hangs"}:
            delay = within + timedelta(seconds=20) if how == "made late" else timedelta()
            # A create that comes while the first is still being worked on is as late as that one.
            if not (self.refuses_taken and any(made.external_id == external_id for made in self.ledger)):
                self._make(body, delay)
        match how:
            case "accepted":
                return self._accepted(self.ledger[-1])
            case "not sent":
                raise NotSent("could not connect")
            case "reply lost" | "made late" | "nothing made":
                self.clock.advance(within)
                raise ReplyLost("no answer in time")
            case "hangs" | "hangs unsent":
                self.hanging.set()
                await asyncio.Event().wait()
        status, code = {"refused": (400, 1201), "busy": (429, 1303), "credential": (401, 1002)}[how]
        return _reply(status, code, headers={"retry-after": "3600"} if how == "busy" else {})

    def _make(self, body: dict[str, Any], delay: timedelta) -> None:
        self.ledger.append(
            Made(
                id=f"kling-{len(self.ledger) + 1}",
                external_id=body["external_task_id"],
                prompt=body["prompt"],
                made_at=self.clock() + delay,
            )
        )

    def _accepted(self, made: Made) -> Reply:
        return _reply(200, 0, data=self._shown(made))

    def _taken(self, external_id: str) -> Reply:
        name = external_id if self.looks_up else f"gw-{len(self.ledger)}"
        return _reply(400, 1201, message=f"External_task_id {name} already exists")

    def _query(self, ref: str) -> Reply:
        for made in self.existing():
            if ref == made.id or (self.looks_up and ref == made.external_id):
                return _reply(200, 0, data=self._shown(made))
        return _reply(400, 1201, message=f"Task not found by id/external id: {ref}")

    def _shown(self, made: Made) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "task_id": made.id,
            "task_status": made.status,
            "task_status_msg": f"{made.prompt}: {made.status}",
            "created_at": milliseconds(made.made_at),
            "updated_at": milliseconds(made.made_at),
            "final_unit_deduction": "1",
        }
        if made.status == "succeed":
            shown["task_result"] = {"images": [{"index": 0, "url": f"https://results.example/{made.id}.png"}]}
        if self.echoes:
            shown["task_info"] = {"external_task_id": made.external_id}
        return shown


def _reply(
    status: int, code: int, *, data: object = None, message: str = "SUCCEED", headers: dict[str, str] | None = None
) -> Reply:
    body = {"code": code, "message": message if code == 0 or message != "SUCCEED" else "no", "request_id": "r-1"}
    if data is not None:
        body["data"] = data
    return Reply(status=status, headers=headers or {}, body=json.dumps(body).encode())
