"""Accepts create requests: the row first, one submission per row, and never a second row for the same request."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from tracker.errors import CommitUnknown, CredentialMissing, StoreUnavailable
from tracker.model.clock import Deadline, RandomBytes
from tracker.model.shared_capacity import SharedCapacity
from tracker.model.task import Created, Task, new_task_id
from tracker.providers.base import Account, KeyPair, Kind
from tracker.rules import schedule
from tracker.rules.create_requests import (
    NoteAbandoned,
    NoteAnswered,
    RecordSubmission,
    SubmitDecision,
    is_named,
    request_names,
)
from tracker.rules.outcomes import Rules
from tracker.rules.submits import ORIGIN_SUBMIT, RecordLate, RecordRefused
from tracker.service.arguments import bounded, checked_metadata, distinct_tags
from tracker.service.external_ids import ExternalIds
from tracker.service.object_owners import ObjectOwners
from tracker.service.recorder import Recorder
from tracker.service.submission import RETRY_LATER, Submission, SubmitRequest
from tracker.storage.store import Store

# The key that equal submissions of one client share.
BodyKey = tuple[str, str | None]
# The replicas' clocks may differ by this much. A heartbeat is later than a request only by a larger difference.
CLOCKS_APART: Final = timedelta(seconds=0.5)
LOOK_AGAIN: Final = timedelta(seconds=0.1)
# The limit of rows with an unknown commit result. Beyond it, Homing records nothing, to protect the memory.
MOST_UNSURE: Final = 200
UNSENT: Final = "the database did not confirm that the request was recorded, so nothing was sent. Try again later"
FULL: Final = "too many large requests wait for the provider's answer. Nothing was sent. Try again later"
# A process that is silent for so long is gone, even if no other process can confirm it.
LONG_SILENT: Final = timedelta(seconds=15)


@dataclass(slots=True, kw_only=True)
class _Client:
    """The client of a request in progress: the ID of its row, once it is known, and whether the client left."""

    row_id: str | None = None
    left: bool = False


class Intake:
    """Holds the submissions in progress. A repeated request waits for the first one, and no submission is cut short.

    This process knows at once if a client leaves without an answer. It records this in the row as soon as the database
    accepts it.
    """

    def __init__(
        self,
        *,
        store: Store,
        recorder: Recorder,
        submission: Submission,
        owners: ObjectOwners,
        rules: Rules,
        clock: Callable[[], datetime],
        callbacks: bool,
        random_bytes: RandomBytes,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._notes = submission.notes
        self._random_bytes = random_bytes
        self._external_ids = ExternalIds(store, random_bytes=random_bytes)
        self._submission = submission
        self._owners = owners
        self._rules = rules
        self._clock = clock
        self._callbacks = callbacks
        # The bodies of submissions in progress. The slot of a request is free as soon as its client disconnects.
        self._bodies = SharedCapacity(rules.policy.submission_capacity, FULL)
        self._under_way: set[asyncio.Task[Any]] = set()
        # By client and body: rows whose clients left, until this is committed.
        self._left: dict[BodyKey, set[str]] = {}
        # By client and body: rows that may exist although their clients got an error.
        self._unsure: dict[BodyKey, set[str]] = {}
        self._resending: WeakValueDictionary[BodyKey, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """Load the secret that external IDs are derived from.

        The first start creates it, so that every backup has it.
        """
        await self._external_ids.open()

    async def submit(self, request: SubmitRequest) -> Created:
        """Record the request, send it, and return its task. ``Tracker.submit`` lists the exceptions.

        Both steps continue if the caller stops waiting, because every recorded request is sent.
        """
        await self._owners.check(request.client, request.account, request.order.body)
        task = self._row(request)
        client = _Client()
        accepting = asyncio.create_task(self._accept(request, task, client))
        self._under_way.add(accepting)
        accepting.add_done_callback(self._accepted)
        try:
            return await asyncio.shield(accepting)
        except asyncio.CancelledError:
            client.left = True
            self._leave(_body_key(task), task.id if client.row_id is None else client.row_id)
            raise

    async def _accept(self, request: SubmitRequest, task: Task, client: _Client) -> Created:
        """Record a request, and send it unless a row already has it."""
        body = json.dumps(request.order.body, ensure_ascii=False).encode()
        with self._bodies.holding(task.client, len(body)):
            # An existing task is returned in any case, because an error would say that nothing was created.
            recording = self._record(task, body, sendable=request.account.credential is not None)
            del body
            try:
                decision = await recording
            except CommitUnknown:
                self._withdraw(task)
                raise
            found = decision.task
            client.row_id = found.id
            if not decision.send:
                if client.left:
                    # The note was about a row that was never committed.
                    self._returned(_body_key(task), task.id)
                    self._leave(_body_key(task), found.id)
                sending = self._submission.sending.get(found.id)
                return Created(task=found if sending is None else await sending, is_new=False)
            credential = request.account.credential
            if credential is None or (request.kind.needs_api_key and isinstance(credential, KeyPair)):
                raise _missing_credential(request.account, request.kind)
            return Created(task=await self._submission.first(found, request), is_new=True)

    def _withdraw(self, task: Task) -> None:
        """Reject a row that may or may not be committed. Its client gets the error that nothing was sent."""
        refused = RecordRefused(sent=task, why=UNSENT, now=self._clock(), rules=self._rules)
        # With the other names, this work waits for a commit that is still in progress.
        work = RecordLate(outcome=refused, others=request_names(task))
        self._unsure.setdefault(_body_key(task), set()).add(task.id)
        written = partial(_forget, self._unsure, _body_key(task), task.id)
        self._notes.keep(_request_of(task.id), work, written=written)

    async def answered(self, task_id: str) -> None:
        """Record that the answer to a submission is on its way.

        Return after the first try. A failed write is retried.
        """
        self._notes.keep(_note_of(task_id), NoteAnswered(task_id=task_id, now=self._clock()))
        await self._notes.attempt(_note_of(task_id))

    async def abandoned(self, task: Task) -> None:
        """Record that the client of a submission left without its answer. The same body sent again is the same request.

        This process knows it at once. Return after the first try to record it. A failed write is retried.
        """
        self._leave(_body_key(task), task.id)
        await self._notes.attempt(_note_of(task.id))

    def _leave(self, body_key: BodyKey, task_id: str) -> None:
        self._left.setdefault(body_key, set()).add(task_id)
        work = NoteAbandoned(task_id=task_id)
        self._notes.keep(_note_of(task_id), work, written=partial(self._returned, body_key, task_id))

    def _returned(self, body_key: BodyKey, task_id: str) -> None:
        """Forget that a client left, because the row has it recorded or the client came back."""
        _forget(self._left, body_key, task_id)

    async def finish(self) -> None:
        """Wait for the submissions in progress, then record the last notes.

        Each submission ends by its own deadline.
        """
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._notes.close()

    def _row(self, request: SubmitRequest) -> Task:
        now = self._clock()
        policy = self._rules.policy
        until = now + policy.answer_within
        task_id = new_task_id(now, self._random_bytes(10))
        key = request.idempotency_key
        account, kind, order = request.account, request.kind, request.order
        return Task(
            id=task_id,
            provider=account.provider.name,
            kind=kind.name,
            account=account.name,
            client=request.client.name,
            origin=ORIGIN_SUBMIT,
            created_at=now,
            updated_at=now,
            deadline_at=now + (request.deadline or schedule.deadline_for(kind.name, kind.deadline, policy)),
            external_id=order.external_id,
            sent_external_id=task_id if kind.takes_external_id else None,
            idempotency_key=None if key is None else bounded(key, "Idempotency-Key"),
            request=order.shown,
            request_hash=order.request_hash,
            model=order.model,
            client_callback_url=order.callback_url,
            callback_requested=self._callbacks,
            tags=distinct_tags(request.tags),
            metadata=checked_metadata(request.metadata),
            attempts=1,
            attempt_deadline_at=until,
            lease_owner=self._rules.owner,
            lease_until=until + policy.lease_margin,
            next_poll_at=until + policy.lease_margin,
            taken_by=self._rules.owner,
            answered_at=None if request.answered_later else now,
        )

    async def _record(self, task: Task, body: bytes, *, sendable: bool) -> SubmitDecision:
        body_key = _body_key(task)
        for task_id in tuple(self._unsure.get(body_key, ())):
            if not await self._notes.attempt(_request_of(task_id)):
                raise StoreUnavailable(UNSENT, retry_after=RETRY_LATER)
        if len(self._unsure) >= MOST_UNSURE:
            raise StoreUnavailable(UNSENT, retry_after=RETRY_LATER)
        if not self._left.get(body_key):
            return await self._decide(task, body, sendable=sendable)
        # A client left an equal submission, and its row does not have this yet. Each repeated request takes one such
        # row.
        async with self._resending.setdefault(body_key, asyncio.Lock()):
            for task_id in list(self._left.get(body_key, ())):
                await self._notes.drop(_note_of(task_id))
            try:
                decision = await self._decide(task, body, sendable=sendable)
                self._returned(body_key, decision.task.id)
                return decision
            finally:
                for task_id in list(self._left.get(body_key, ())):
                    self._leave(body_key, task_id)

    async def _decide(self, task: Task, body: bytes, *, sendable: bool) -> SubmitDecision:
        """Record the request once the living processes are known. Use an external ID that no row has."""
        # A process that serves a file alone knows that no other process lives.
        gone: dict[str, bool] | None = {} if self._store.shared else None
        left = frozenset(self._left.get(_body_key(task), ()))
        named = is_named(task) and task.sent_external_id is not None
        # Without a retention no row was ever deleted, so the first generation needs no query.
        generation = await self._external_ids.first_generation(task) if named and self._rules.policy.retention else 0
        while True:
            if named:
                task = replace(task, sent_external_id=await self._external_ids.of(task, generation))
            work = RecordSubmission(
                task=task, body=body, policy=self._rules.policy, gone=gone, left=left, sendable=sendable
            )
            decision = await self._recorder.apply(work)
            if decision.id_used:
                generation = await self._external_ids.next_generation(task, generation + 1)
                continue
            if decision.undecided is None or gone is None:
                return decision
            gone[decision.undecided] = await self._is_gone(decision.undecided, since=task.created_at)

    async def _is_gone(self, owner: str, *, since: datetime) -> bool:
        """Wait until it is known whether a process was alive after ``since``, the time of a repeated request."""
        waited = Deadline(self._submission.monotonic, LONG_SILENT)
        while (seen := await self._store.servers.last_seen(owner)) is not None:
            if seen > since + CLOCKS_APART:
                return False
            # This works even if the clock was set: a new heartbeat is later than the request by then.
            if self._clock() - seen > LONG_SILENT or waited.left <= timedelta():
                break
            await asyncio.sleep(LOOK_AGAIN.total_seconds())
        return True

    def _accepted(self, accepting: asyncio.Task[Any]) -> None:
        self._under_way.discard(accepting)
        if not accepting.cancelled():
            # The waiting requests have the error. If none waits, asyncio must not report the error as never retrieved.
            accepting.exception()


def _body_key(task: Task) -> BodyKey:
    return task.client, task.request_hash


def _forget(rows: dict[BodyKey, set[str]], body_key: BodyKey, task_id: str) -> None:
    left = rows.get(body_key, set())
    left.discard(task_id)
    if not left:
        rows.pop(body_key, None)


def _request_of(task_id: str) -> str:
    return f"request of {task_id}"


def _note_of(task_id: str) -> str:
    return f"client of {task_id}"


def _missing_credential(account: Account, kind: Kind) -> CredentialMissing:
    what = f"; set {account.credential_settings}" if account.credential_settings else ""
    has = "none" if account.credential is None else f"only an access key, and {kind.name} needs an API key"
    return CredentialMissing(
        f"credential missing: this server has {has} for {account.provider.name}, so nothing was sent or created{what}",
        retry_after=RETRY_LATER,
    )
