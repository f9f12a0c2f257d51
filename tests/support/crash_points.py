"""Crash points: stores, and an app around one, that end their own process at a named point.

The points are those of a batch, and one of the relay: an event was delivered, but this is not recorded.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.builders import name_of
from tracker.model.changes import Work
from tracker.model.sinks import ProgressUpdate
from tracker.storage import batch
from tracker.storage.engine.bulk import play
from tracker.storage.progress_store import ProgressStore
from tracker.storage.store import Store

BEFORE: Final = "before"  # nothing of the batch has reached the database
WRITTEN: Final = "written"  # every row of the batch is written, and the commit has not started
AFTER: Final = "after"  # the batch is committed, and no request is answered
HALF: Final = "half"  # half of its answers are on the wire
POINTS: Final = (BEFORE, WRITTEN, AFTER, HALF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """At ``when`` of the first batch that holds ``least`` pieces named ``piece``, their ``nth`` so far among them.

    A piece has the name of its decision.
    """

    when: str
    piece: str
    nth: int = 1
    least: int = 1


class CrashingStore(Store):
    """Die as planned. For HALF, set in ``answers`` how many responses leave before the end."""

    def __init__(self, database_url: str, crash: Crash, answers: "HalfAnswered") -> None:
        super().__init__(database_url)
        self._crash = crash
        self._answers = answers
        self._left = crash.nth

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        pieces = sum(name_of(work) == self._crash.piece for work in works)
        self._left -= pieces
        when = self._crash.when if self._left <= 0 and pieces >= self._crash.least else None
        if when == BEFORE:
            die()
        if when == WRITTEN:
            await self._database.write(_write_and_die, works)
        results = await super().apply(works)
        if when == AFTER:
            die()
        if when == HALF:
            self._answers.left = pieces // 2
        return results


class UnmarkedStore(Store):
    """Die before recording that this process delivered ``fatal`` events."""

    def __init__(self, database_url: str, fatal: int) -> None:
        super().__init__(database_url)
        self.progress = _Unmarked(self, fatal)


class _Unmarked(ProgressStore):
    def __init__(self, store: Store, fatal: int) -> None:
        super().__init__(store._database, store.events)  # noqa: SLF001 - the same database
        self._left = fatal

    async def record(self, name: str, progress: ProgressUpdate, *, owner: str, now: datetime) -> bool:
        self._left -= progress.delivered_count
        if progress.delivered_count and self._left <= 0:
            die()
        return await super().record(name, progress, owner=owner, now=now)


class HalfAnswered:
    """An app that, once limited, answers so many more callbacks, holds all others, and dies."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.left: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        counted = scope["type"] == "http" and scope["path"].startswith("/callbacks/")
        await self.app(scope, receive, partial(self._send, send) if counted else send)

    async def _send(self, send: Send, message: Message) -> None:
        if self.left is not None and message["type"] == "http.response.start":
            if self.left == 0:
                await asyncio.Event().wait()
            self.left -= 1
        await send(message)
        if self.left == 0 and message["type"] == "http.response.body":
            # The loop writes its output at the end of its turn: this response and all buffered ones.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, die)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write_and_die(connection: Connection, works: Sequence[Work[Any]]) -> None:
    play(connection, batch.apply(connection.dialect.name, works))
    die()
