"""The provider in virtual time: tasks with random run times."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final

from bench import deliveries, shapes
from tracker.model.untrusted import JsonObject, JsonValue, milliseconds
from tracker.providers.base import Account, Call, Reply

MEDIAN: Final = timedelta(seconds=120)
SIGMA: Final = 0.3
NO_SUCH_CALL: Final = {"code": 1203, "message": "The requested resource does not exist", "request_id": "virtual"}


@dataclass(slots=True, kw_only=True)
class Life:
    """One task at the provider. ``reads`` is its share of the polls. ``known_at`` is when Homing learned its end."""

    id: str
    external_id: str
    begun_at: datetime
    ends_at: datetime
    reads: float = 0.0
    known_at: datetime | None = None

    @property
    def extra_delay(self) -> float:
        """The time from the end of the task until Homing knew it, as a share of the run time."""
        assert self.known_at is not None
        return (self.known_at - self.ends_at) / (self.ends_at - self.begun_at)


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = deliveries.created_at(0)

    def __call__(self) -> datetime:
        return self.now


class World:
    """A ``tracker.transport.Sender`` that accepts submissions and reports the current state of each task."""

    def __init__(self, clock: Clock, random: Random, *, batches: bool) -> None:
        self._clock = clock
        self._random = random
        self._batches = batches
        self.lives: dict[str, Life] = {}

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        del account, now, within
        if call.method == "POST":
            return _reply(self._shape(self._begin(json.loads(call.body)["external_task_id"]), shapes.legacy))
        if call.path == "/tasks":
            return self._batch([self.lives[each] for each in call.query["task_ids"].split(",")])
        life = self._life(call.path.rsplit("/", maxsplit=1)[1])
        life.reads += 1
        return _reply(self._report(life, shapes.legacy))

    def callback(self, life: Life) -> bytes:
        """Return the callback body for the current state of a task."""
        return json.dumps(self._report(life, shapes.legacy)).encode()

    def _batch(self, polled: Sequence[Life]) -> Reply:
        for life in polled:
            life.reads += 1 / len(polled)
        if not self._batches:
            return Reply(status=404, body=json.dumps(NO_SUCH_CALL).encode())
        return _reply([self._report(life, shapes.new) for life in polled])

    def _life(self, either_id: str) -> Life:
        """Return a task by its ID or its external ID. The single query of the provider accepts both."""
        known = self.lives.get(either_id)
        return known or next(life for life in self.lives.values() if life.external_id == either_id)

    def _begin(self, external_id: str) -> Life:
        run_time = timedelta(seconds=self._random.lognormvariate(math.log(MEDIAN.total_seconds()), SIGMA))
        now = self._clock.now
        theirs = deliveries.provider_id(len(self.lives))
        self.lives[theirs] = Life(id=theirs, external_id=external_id, begun_at=now, ends_at=now + run_time)
        return self.lives[theirs]

    def _report(self, life: Life, shape: Callable[..., JsonObject]) -> JsonObject:
        """Report a task, and note the time of the first final report."""
        if life.known_at is None and self._clock.now >= life.ends_at:
            life.known_at = self._clock.now
        return self._shape(life, shape)

    def _shape(self, life: Life, shape: Callable[..., JsonObject]) -> JsonObject:
        ended = self._clock.now >= life.ends_at
        return shape(
            life.id,
            external_id=life.external_id,
            status=shapes.SUCCEED if ended else "processing",
            created_ms=milliseconds(life.begun_at),
            updated_ms=milliseconds(life.ends_at if ended else life.begun_at),
        )


def _reply(data: JsonValue) -> Reply:
    return Reply(status=200, body=json.dumps(shapes.envelope(data)).encode())
