"""Decisions about create requests: a row of its own, or the one that has it already, and whose client has an answer."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime

import msgspec

from tracker.errors import Conflict
from tracker.model.changes import (
    Change,
    Key,
    Known,
    by_external_id,
    by_id,
    by_idempotency_key,
    by_sent_id,
    by_unanswered,
)
from tracker.model.task import Status, Task, is_derived
from tracker.rules import lifecycle
from tracker.rules.schedule import Policy


class SubmitDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a create request: ``send`` it as a new row, or return the row that has it already.

    Nothing is recorded where ``undecided`` names a process: it took the same body and has not answered, so everything
    depends on whether it is gone. Nor where ``id_used``: an earlier row, which was rejected, has the external ID.
    """

    task: Task
    send: bool = False
    undecided: str | None = None
    id_used: bool = False


class RecordSubmission(msgspec.Struct, frozen=True, kw_only=True):
    """Record a create request before the provider is called, or find the row that has it already.

    ``gone`` says of other processes whether they are, as far as that is known; None where all others are. ``left`` are
    tasks of this process whose clients hung up, although their rows do not say so yet. A fresh one that is not
    ``sendable`` is not recorded. Raises Conflict where the client used its external ID or idempotency key with another
    body.
    """

    task: Task
    body: bytes
    policy: Policy
    gone: Mapping[str, bool] | None = None
    left: AbstractSet[str] = frozenset()
    sendable: bool = True

    @property
    def keys(self) -> frozenset[Key]:
        task = self.task
        keys = request_names(task)
        if is_named(task) and task.sent_external_id is not None:
            keys |= {by_sent_id(task.provider, task.account, task.sent_external_id)}
        return keys

    def decide(self, known: Known) -> Change[SubmitDecision]:
        task = self.task
        for before, what in (
            (task.external_id and known.get(by_external_id(task.client, task.external_id)), "External_task_id"),
            (
                task.idempotency_key and known.get(by_idempotency_key(task.client, task.idempotency_key)),
                "Idempotency-Key",
            ),
        ):
            if before:
                if before.request_hash == task.request_hash:
                    return Change(result=SubmitDecision(task=before))
                name = task.external_id if what == "External_task_id" else task.idempotency_key
                raise Conflict(f"{what} {name} already exists")
        unanswered = _resent(known, task, self.policy, self.gone, self.left)
        if isinstance(unanswered, str):
            return Change(result=SubmitDecision(task=task, undecided=unanswered))
        if unanswered is not None:
            # It counts as answered once this answer is out, and not before: this process may die too.
            joined = replace(unanswered, taken_by=task.taken_by, answered_at=task.answered_at)
            return Change(result=SubmitDecision(task=joined), task=joined)
        if is_named(task) and is_derived(task) and task.sent_external_id is not None:
            holder = known.get(by_sent_id(task.provider, task.account, task.sent_external_id))
            if holder is not None:
                return _came_back(holder, task)
        fresh = SubmitDecision(task=task, send=True)
        return Change(result=fresh, task=task, submission=self.body) if self.sendable else Change(result=fresh)


def request_names(task: Task) -> frozenset[Key]:
    """Return the names under which a create request may have been recorded before."""
    keys = [by_id(task.id)]
    if task.external_id is not None:
        keys.append(by_external_id(task.client, task.external_id))
    if task.idempotency_key is not None:
        keys.append(by_idempotency_key(task.client, task.idempotency_key))
    if task.request_hash is not None:
        keys.append(by_unanswered(task.client, task.request_hash))
    return frozenset(keys)


def is_named(task: Task) -> bool:
    """Return whether the client named its request, which decides the external ID that the provider gets."""
    return task.external_id is not None or task.idempotency_key is not None


def _came_back(holder: Task, task: Task) -> Change[SubmitDecision]:
    """Assign another external id to a submit, or return the row of a task adopted before its client sent it again.

    Nobody else can have made a task under this id: it proves whose the adopted one is.
    """
    if holder.released or holder.attempts > 0:
        return Change(result=SubmitDecision(task=task, id_used=True))
    theirs = replace(
        holder,
        client=task.client,
        external_id=task.external_id,
        idempotency_key=task.idempotency_key,
        request=task.request,
        request_hash=task.request_hash,
        model=task.model,
        client_callback_url=task.client_callback_url,
        version=holder.version + 1,
        updated_at=task.created_at,
    )
    return Change(
        result=SubmitDecision(task=theirs),
        task=theirs,
        events=(lifecycle.event(theirs, "updated", task.created_at),),
    )


def _resent(
    known: Known, task: Task, policy: Policy, gone: Mapping[str, bool] | None, left: AbstractSet[str]
) -> Task | str | None:
    """Find the submit of the same body whose client has no answer, and therefore sends it again.

    That client hung up, or a dead process took it. Gives the process where it is not known whether it is dead: a living
    one has a client of its own.
    """
    if task.request_hash is None or is_named(task):
        return None
    # Each re-sent one takes one of them, the oldest first: two equal submits stay two tasks.
    for before in reversed(known.every(by_unanswered(task.client, task.request_hash))):
        recent = task.created_at - before.created_at < policy.resend_window
        if not recent or is_named(before) or before.status is Status.REJECTED:
            continue
        if before.id in left:
            return before
        if before.taken_by == task.taken_by:
            continue
        if gone is None or before.taken_by is None:
            return before
        if (dead := gone.get(before.taken_by)) is None:
            return before.taken_by
        if dead:
            return before
    return None


class NoteAbandoned(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the client of a submit left without its answer: the same body, sent again, is the same submit."""

    task_id: str

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.task_id)})

    def decide(self, known: Known) -> Change[None]:
        task = known.get(by_id(self.task_id))
        if task is None or task.answered_at is not None:
            return Change(result=None)
        return Change(result=None, task=replace(task, taken_by=None))


class NoteAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the answer to a submit was on its way."""

    task_id: str
    now: datetime

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset({by_id(self.task_id)})

    def decide(self, known: Known) -> Change[None]:
        task = known.get(by_id(self.task_id))
        if task is None or task.answered_at is not None:
            return Change(result=None)
        return Change(result=None, task=replace(task, answered_at=self.now))
