"""Sentences about a task: what it waits for, what was received, what comes next, and what would unblock it.

This module is pure. Its input is the API's documents (a task, its history, the problems of its account) and a time.
"""

from collections.abc import Sequence
from datetime import datetime

from homing.terminal import ago
from tracker.model.task import Status
from tracker.model.untrusted import JsonObject
from tracker.rules.recovery import UNRESOLVED

WAITING = {Status.PENDING, Status.SUBMITTED, Status.PROCESSING}


def explain(
    task: JsonObject, entries: Sequence[JsonObject], now: datetime, *, account: Sequence[JsonObject] = ()
) -> list[str]:
    """Return the sentences: account problems, task status, callbacks and polls, what comes next, what unblocks it."""
    open_ended = Status(str(task["status"])) in WAITING or task["next_poll_at"] is not None
    sentences = [_account(trouble, now) for trouble in account] if open_ended else []
    sentences += [_state(task, now), _callbacks(task, entries, now), _polls(task, now), _conflict(task, now)]
    sentences += [_contradictions(entries, now), _failures(entries, now), _unblock(task)]
    return [sentence for sentence in sentences if sentence]


def _account(trouble: JsonObject, now: datetime) -> str:
    """Return the problem that delays every task of the account, and what to do."""
    since = ago(trouble["since"], now).removesuffix(" ago")
    match trouble["reason"]:
        case "credential":
            return (
                f"The provider has refused this server's credential for {since}. Polls wait and create requests fail "
                "until the operator corrects it. `homing doctor` tests it."
            )
        case "budget":
            return f"Polls wait for the budget: {trouble['why']}."
        case "paused":
            return (
                f"Requests to the provider are paused, the next one is {ago(trouble['until'], now)}: {trouble['why']}."
            )
        case "outage":
            return f"The provider has not answered for {since}: {trouble['why']}."
        case "unreadable":
            return f"The provider's answers have not been readable for {since}: {trouble['why']}."
    return f"The account at the provider has a problem: {trouble['why']}."


def _state(task: JsonObject, now: datetime) -> str:
    status, reason = Status(str(task["status"])), task["reason"] or task["message"]
    because = f": {reason}" if reason else ""
    if status is Status.PENDING:
        return f"It has been pending for {_since(task, now)}: recorded, not yet known to be accepted{because}."
    if status in WAITING:
        name = f" as {task['provider_task_id']}" if task["provider_task_id"] else ""
        return f"It is {status.value}: the provider has had it{name} for {_since(task, now)}{because}."
    source = task["status_source"]
    reported = f", reported by a {source['source']} of trust {source['trust']}" if isinstance(source, dict) else ""
    return f"It {_ended(status)} {ago(task['finished_at'], now)}{reported}{because}."


def _since(task: JsonObject, now: datetime) -> str:
    return ago(task["submitted_at"] or task["created_at"], now).removesuffix(" ago")


def _ended(status: Status) -> str:
    return {Status.REJECTED: "was rejected"}.get(status, status.value)


def _callbacks(task: JsonObject, entries: Sequence[JsonObject], now: datetime) -> str:
    callbacks = [entry for entry in entries if entry["source"] == "callback"]
    if not callbacks:
        if task["callback_requested"]:
            return "No callback has been received yet. Homing requested one."
        return "Homing requested no callback, so only polls can report the result."
    last = max(callbacks, key=lambda entry: str(entry["at"]))
    reported = f" with status {last['provider_status']!r}" if last["provider_status"] else ""
    when = ago(task["last_observed_at"] or last["at"], now)
    return f"The last callback was received {when}{reported}: {last['verdict']}, {last['why']}."


def _polls(task: JsonObject, now: datetime) -> str:
    if task["poll_count"]:
        polled = f"Homing polled the provider {task['poll_count']} times, last {ago(task['polled_at'], now)}"
        polled = polled.replace(" 1 times, last", " once,")
    else:
        polled = "Homing has not polled the provider yet"
    if task["next_poll_at"] is None:
        return f"{polled}. No further poll is planned."
    coming = ago(task["next_poll_at"], now)
    coming = coming if coming.startswith("in ") else "due now"
    return f"{polled}. The next poll is {coming}."


def _conflict(task: JsonObject, now: datetime) -> str:
    conflict = task.get("conflict")
    if conflict is None:
        return ""
    since = f"Contradictory reports came {ago(task['conflict_at'], now)}: that it succeeded, and that it failed."
    if conflict == "open":
        return f"{since} Homing polls the provider until it says which is true."
    return (
        f"{since} After days of polls, the provider has not decided. Check the task at the provider, then run "
        f"`homing tasks resolve {task['id']} --status succeeded` or `--status failed`."
    )


def _contradictions(entries: Sequence[JsonObject], now: datetime) -> str:
    """Return a sentence about the last observation that was refused as contradictory or unreadable."""
    found = [entry for entry in entries if entry["verdict"] in {"contradicted", "unreadable"} and not _failed(entry)]
    if not found:
        return ""
    last = found[-1]
    return f"A {last['source']} {ago(last['at'], now)} was {last['verdict']}: {last['why']}."


def _failed(entry: JsonObject) -> bool:
    """Return whether an entry is about polls without a readable answer."""
    return (
        entry["source"] == "poll"
        and entry["provider_status"] is None
        and entry["verdict"] in {"unreadable", "unanswered"}
    )


def _failures(entries: Sequence[JsonObject], now: datetime) -> str:
    """Return a sentence about the last poll if it failed and is the newest entry."""
    last = max(entries, key=lambda entry: str(entry["at"]), default=None)
    if last is None or not _failed(last):
        return ""
    repeats = last.get("repeats")
    often = f" ({repeats} more before it)" if repeats else ""
    began = f" The answer began with {str(last['body'])!r}." if last.get("body") else ""
    return f"The last poll, {ago(last['at'], now)}{often}, got no usable answer: {last['why']}.{began}"


def _unblock(task: JsonObject) -> str:
    status, name = Status(str(task["status"])), task["id"]
    if status is Status.PENDING and task["reason"] == UNRESOLVED:
        return (
            "To unblock it: its own callback, `homing reconcile --discover` (the provider's list), or your decision: "
            f"`homing tasks resolve {name} --provider-task-id ID`, or `--status rejected` if the provider never had it."
        )
    if status is Status.PENDING and task["origin"] == "expect":
        return f"To unblock it: submit it, wait for its callback, or run `homing tasks attach {name} PROVIDER_TASK_ID`."
    if status in WAITING:
        return f"To unblock it: a verified callback or the next poll. `homing tasks poll {name}` polls now."
    if status is Status.EXPIRED:
        return f"The deadline passed without an answer. A late one still counts. `homing tasks poll {name}` polls now."
    if status is Status.REJECTED:
        return "The provider made no task, and Homing does not submit it again. Submit it again if you still need it."
    return ""
