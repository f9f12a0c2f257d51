"""Runs tasks: submitted, processing, then succeed or failed, by the clock or by steering.

Documented: the four statuses; a failed task is no API error. Live: `processing` came 1.8 s after a creation, and
`Image pixel is invalid` is a message of a failed one. The provider has no status for canceled or expired tasks.
"""

import asyncio
import contextlib
import hashlib
import math
import time
from random import Random

from homing.sandbox import results
from homing.sandbox.callback_factory import CallbackFactory
from homing.sandbox.callback_sender import BackgroundJobs, CallbackSender
from homing.sandbox.faults import Faults
from homing.sandbox.ledger import Ledger
from homing.sandbox.refusals import Refusal
from homing.sandbox.settings import SandboxSettings
from homing.sandbox.submission import Submission
from homing.sandbox.task import FAILED, PROCESSING, SUBMITTED, SUCCEED, State, Task

_FIRST_CHANGE_SECONDS = 1.8
_FIRST_CHANGE_SHARE = 0.2
_FAILURE = "Image pixel is invalid"
_INDEX_BITS = 20


class SteeringError(Exception):
    """The task can no longer do what was requested. The message says why."""


class TaskRunner:
    """Creates tasks and changes their status. Each change is recorded in the ledger and sent as callbacks."""

    def __init__(
        self,
        settings: SandboxSettings,
        faults: Faults,
        ledger: Ledger,
        factory: CallbackFactory,
        sender: CallbackSender,
        jobs: BackgroundJobs,
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._ledger = ledger
        self._factory = factory
        self._sender = sender
        self._jobs = jobs
        self._timers: dict[str, asyncio.Task[None]] = {}
        self.result_key = hashlib.sha256(f"{settings.seed}/{ledger.started_at}".encode()).digest()

    def create(self, submission: Submission, account: str, origin: str, *, again: bool = False) -> Task:
        """Create a task, or raise `Refusal` (1201 for a duplicate, 1303 without a free slot, 5001 over `max_tasks`).

        With `again`, the external ID may be one that another task has.
        """
        self._ledger.check_capacity(submission.external_id, submission.slots, again=again)
        index, now = len(self._ledger), _milliseconds()
        dice = Random(f"{self._settings.seed}/life/{index}")  # noqa: S311 - reproducible on purpose, no secret
        run_time = self._settings.run_time * math.exp(dice.gauss(0, 1) * self._settings.run_time_sigma)
        task = Task(
            index=index,
            id=str((self._ledger.started_at << _INDEX_BITS) + index),
            submission=submission,
            account=account,
            origin=origin,
            created_at=now,
            fate=FAILED if dice.random() < self._settings.failure_rate else SUCCEED,
            run_time=run_time,
            held=self._settings.held,
            states=[State(status=SUBMITTED, updated_at=now)],
        )
        self._ledger.enter(task)
        self._announce(task)
        if not task.held:
            self._start(task)
        return task

    def create_late(self, submission: Submission, account: str, origin: str, *, again: bool) -> None:
        """Create a task after `late_by` seconds, if that is still possible."""
        self._jobs.spawn(self._create_late(submission, account, origin, again=again))

    async def _create_late(self, submission: Submission, account: str, origin: str, *, again: bool) -> None:
        await asyncio.sleep(self._settings.late_by)
        with contextlib.suppress(Refusal):
            self.create(submission, account, origin, again=again)

    def hold(self, task: Task) -> None:
        """Stop the task's clock."""
        self._check_unfinished(task)
        self._stop(task)
        task.held = True

    def release(self, task: Task) -> None:
        """Start the task's clock again, for the rest of its run time."""
        self._check_unfinished(task)
        task.held = False
        self._stop(task)
        self._start(task)

    def process(self, task: Task, *, notify: bool = True) -> None:
        """Change the status from `submitted` to `processing` now."""
        if task.state.status != SUBMITTED:
            raise SteeringError(f"the task is {task.state.status}, no longer {SUBMITTED}")
        self._stop(task)
        self._process(task, notify=notify)
        if not task.held:
            self._start(task)

    def finish(self, task: Task, status: str | None = None, message: str | None = None, *, notify: bool = True) -> None:
        """End the task now, with the given or its random status. Without `notify` no callback is sent."""
        self._check_unfinished(task)
        self._stop(task)
        task.held = False
        self._end(task, status or task.fate, message, notify=notify)

    def _start(self, task: Task) -> None:
        self._timers[task.id] = self._jobs.spawn(self._live(task))

    def _stop(self, task: Task) -> None:
        if timer := self._timers.pop(task.id, None):
            timer.cancel()

    async def _live(self, task: Task) -> None:
        first = min(_FIRST_CHANGE_SECONDS, task.run_time * _FIRST_CHANGE_SHARE)
        if task.state.status == SUBMITTED:
            await asyncio.sleep(first)
            self._process(task, notify=True)
        await asyncio.sleep(task.run_time - first)
        self._timers.pop(task.id, None)
        self._end(task, task.fate, None, notify=True)

    def _process(self, task: Task, *, notify: bool) -> None:
        self._change(task, State(status=PROCESSING, updated_at=_next_time(task)), notify=notify)

    def _end(self, task: Task, status: str, message: str | None, *, notify: bool) -> None:
        now = _next_time(task)
        if status == SUCCEED:
            ends = [end for entry in task.entries for _, end in entry.files]
            names = [f"{task.id}-{number}.{end}" for number, end in enumerate(ends)]
            urls = tuple(results.result_url(task.origin, self.result_key, name, now) for name in names)
            state = State(status=SUCCEED, updated_at=now, message=message or "", results=urls)
        else:
            state = State(status=FAILED, updated_at=now, message=_FAILURE if message is None else message)
        self._change(task, state, notify=notify)

    def _change(self, task: Task, state: State, *, notify: bool) -> None:
        task.states.append(state)
        if notify:
            self._announce(task)

    def _announce(self, task: Task) -> None:
        target = task.submission.callback_url
        if not self._settings.callbacks or target is None:
            return
        self._sender.dispatch(task, self._factory.callbacks(task, target))
        processed = any(state.status == PROCESSING for state in task.states[:-1])
        if task.state.status != SUBMITTED and not processed and self._replayed(task):
            self._sender.replay_on(task)

    def _replayed(self, task: Task) -> bool:
        return self._faults.strike("callback_replayed", task.index) is not None

    def _check_unfinished(self, task: Task) -> None:
        if task.state.final:
            raise SteeringError(f"the task has already ended: {task.state.status}")


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _next_time(task: Task) -> int:
    """Return the present time, at least 2 ms after the last change. A contradiction fits in between."""
    return max(_milliseconds(), task.state.updated_at + 2)
