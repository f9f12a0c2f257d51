"""Decisions about create requests: a new row or an existing one, and which submissions were answered."""

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
from tracker.model.task import Source, Status, Task, is_derived
from tracker.rules import lifecycle
from tracker.rules.schedule import Policy


class SubmitDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about a create request: ``send`` it as a new row, or return the existing row.

    If ``undecided`` names a process, nothing is recorded: that process got the same body and has not answered, so the
    decision depends on whether it is dead. If ``id_used``, nothing is recorded either, because an earlier row has the
    external ID.
    """

    task: Task
    send: bool = False
    undecided: str | None = None
    id_used: bool = False


class RecordSubmission(msgspec.Struct, frozen=True, kw_only=True):
    """Record a create request before the provider is called, or find its existing row.

    ``gone`` says for other processes whether they are dead, if that is known. None means that all others are dead.
    ``left`` are tasks of this process whose clients disconnected, before their rows say so. A new request that is not
    ``sendable`` is not recorded.

    Raises: Conflict, if the client used its external ID or idempotency key with another body.
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
            # It counts as answered only after this answer is sent, because this process may crash too.
            joined = replace(unanswered, taken_by=task.taken_by, answered_at=task.answered_at)
            return Change(result=SubmitDecision(task=joined), task=joined)
        holder = None
        if is_named(task) and is_derived(task) and task.sent_external_id is not None:
            holder = known.get(by_sent_id(task.provider, task.account, task.sent_external_id))
            if holder is not None and not made_nothing(holder):
                return _came_back(holder, task)
        fresh = SubmitDecision(task=task, send=True)
        if not self.sendable:
            return Change(result=fresh)
        # A task with this ID belongs to the new row from now on. A poll of the refused row must not find it. If the
        # refused submission made a task after all, its callbacks raise an alarm, and polls of the new row find it.
        refused = () if holder is None else (replace(holder, sent_external_id=None),)
        return Change(result=fresh, task=task, others=refused, submission=self.body)


def request_names(task: Task) -> frozenset[Key]:
    """Return the keys under which a create request may be recorded already."""
    keys = [by_id(task.id)]
    if task.external_id is not None:
        keys.append(by_external_id(task.client, task.external_id))
    if task.idempotency_key is not None:
        keys.append(by_idempotency_key(task.client, task.idempotency_key))
    if task.request_hash is not None:
        keys.append(by_unanswered(task.client, task.request_hash))
    return frozenset(keys)


def is_named(task: Task) -> bool:
    """Return whether the request has a client's ID. The external ID for the provider depends on that."""
    return task.external_id is not None or task.idempotency_key is not None


def made_nothing(task: Task) -> bool:
    """Return whether the provider refused a submission and made no task, so that its external ID is still unused.

    The next request with the same name uses that ID again. If a restored backup has forgotten an earlier row, only the
    same ID lets the provider refuse a second task, however often it was busy in between.
    """
    return task.status is Status.REJECTED and task.status_source is not Source.OPERATOR and task.duplicate_at is None


def _came_back(holder: Task, task: Task) -> Change[SubmitDecision]:
    """Assign another external ID to a submission, or return the row of an adopted task with that ID.

    Only Homing can have made a task with this ID, so it verifies the client of the adopted task.
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
        tags=task.tags or holder.tags,
        metadata=task.metadata or holder.metadata,
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
    """Return the submission of the same body whose client has no answer and therefore repeats its request.

    That client disconnected, or its process died. If it is unknown whether the process is dead, return the process: a
    live process has its own client.
    """
    if task.request_hash is None or is_named(task):
        return None
    # Each repeated request takes one of them, the oldest first, so two equal submissions stay two tasks.
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
    """Record that a client disconnected without its answer. The same body sent again is then the same submission."""

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
    """Record that the answer to a create request was sent."""

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
