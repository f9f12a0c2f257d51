"""Why a task is where it is, in words: what it waits for, what was heard, what comes next, what would unblock it.

Pure: from the API's documents (a task, its history, what is wrong with its account) and a time to sentences.
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
    """Return the sentences: what is wrong with the account, then the task's state, heard, next, unblock."""
    open_ended = Status(str(task["status"])) in WAITING or task["next_poll_at"] is not None
    sentences = [_account(trouble, now) for trouble in account] if open_ended else []
    sentences += [_state(task, now), _callbacks(task, entries, now), _polls(task, now), _conflict(task, now)]
    sentences += [_contradictions(entries, now), _failures(entries, now), _unblock(task)]
    return [sentence for sentence in sentences if sentence]


def _account(trouble: JsonObject, now: datetime) -> str:
    """Return what keeps every task of the account waiting, and what to do."""
    since = ago(trouble["since"], now).removesuffix(" ago")
    match trouble["reason"]:
        case "credential":
            return (
                f"The provider has refused this server's credential for {since}. Nothing is polled or sent until the "
                "operator corrects it. `homing doctor` tests it."
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
        return f"It has been pending for {_since(task, now)}: written down, not yet known to be accepted{because}."
    if status in WAITING:
        name = f" as {task['provider_task_id']}" if task["provider_task_id"] else ""
        return f"It is {status.value}: the provider has it{name} and has been at it for {_since(task, now)}{because}."
    source = task["status_source"]
    learned = f", learned from a {source['source']} of {source['trust']} trust" if isinstance(source, dict) else ""
    return f"It {_ended(status)} {ago(task['finished_at'], now)}{learned}{because}."


def _since(task: JsonObject, now: datetime) -> str:
    return ago(task["submitted_at"] or task["created_at"], now).removesuffix(" ago")


def _ended(status: Status) -> str:
    return {Status.REJECTED: "was rejected"}.get(status, status.value)


def _callbacks(task: JsonObject, entries: Sequence[JsonObject], now: datetime) -> str:
    callbacks = [entry for entry in entries if entry["source"] == "callback"]
    if not callbacks:
        if task["callback_requested"]:
            return "No callback has come yet; one was asked for."
        return "No callback was asked for, so only asking the provider tells."
    last = max(callbacks, key=lambda entry: str(entry["at"]))
    reported = f" saying {last['provider_status']!r}" if last["provider_status"] else ""
    when = ago(task["last_observed_at"] or last["at"], now)
    return f"Last heard by callback {when}{reported}: {last['verdict']}, {last['why']}."


def _polls(task: JsonObject, now: datetime) -> str:
    if task["poll_count"]:
        polled = f"The provider was asked {task['poll_count']} times, last {ago(task['polled_at'], now)}"
        polled = polled.replace(" 1 times, last", " once,")
    else:
        polled = "The provider was not asked yet"
    if task["next_poll_at"] is None:
        return f"{polled}; there is nothing left to ask."
    coming = ago(task["next_poll_at"], now)
    coming = f"next {coming}" if coming.startswith("in ") else "due now"
    return f"{polled}; {coming}."


def _conflict(task: JsonObject, now: datetime) -> str:
    conflict = task.get("conflict")
    if conflict is None:
        return ""
    since = f"Contradictory reports came {ago(task['conflict_at'], now)}: that it succeeded, and that it failed."
    if conflict == "open":
        return f"{since} Homing polls the provider until it says which is true."
    return (
        f"{since} The provider did not say for days which is true. Check the task there, then run "
        f"`homing tasks resolve {task['id']} --status succeeded` or `--status failed`."
    )


def _contradictions(entries: Sequence[JsonObject], now: datetime) -> str:
    """Return a sentence about the last observation that changed nothing although it could have."""
    found = [entry for entry in entries if entry["verdict"] in {"contradicted", "unreadable"} and not _failed(entry)]
    if not found:
        return ""
    last = found[-1]
    return f"A {last['source']} {ago(last['at'], now)} was {last['verdict']}: {last['why']}."


def _failed(entry: JsonObject) -> bool:
    """Return whether an entry is about polls that brought no answer, or one that cannot be read."""
    return (
        entry["source"] == "poll"
        and entry["provider_status"] is None
        and entry["verdict"] in {"unreadable", "unanswered"}
    )


def _failures(entries: Sequence[JsonObject], now: datetime) -> str:
    """Return a sentence about the last poll if it failed and nothing came after it."""
    last = max(entries, key=lambda entry: str(entry["at"]), default=None)
    if last is None or not _failed(last):
        return ""
    repeats = last.get("repeats")
    often = f" ({repeats} more before it)" if repeats else ""
    began = f" It began: {str(last['body'])!r}." if last.get("body") else ""
    return f"The last poll, {ago(last['at'], now)}{often}, brought no answer: {last['why']}.{began}"


def _unblock(task: JsonObject) -> str:
    status, name = Status(str(task["status"])), task["id"]
    if status is Status.PENDING and task["reason"] == UNRESOLVED:
        return (
            "To unblock it: its own callback, `homing reconcile --discover` (the provider's list), or your word: "
            f"`homing tasks resolve {name} --provider-task-id ID`, or `--status rejected` if the provider never had it."
        )
    if status is Status.PENDING and task["origin"] == "expect":
        return f"To unblock it: submit it, its callback, or its id: `homing tasks attach {name} PROVIDER_TASK_ID`."
    if status in WAITING:
        return f"To unblock it: a proven callback or the next poll; `homing tasks poll {name}` asks now."
    if status is Status.EXPIRED:
        return f"The deadline passed without an answer; a late one still counts. `homing tasks poll {name}` asks now."
    if status is Status.REJECTED:
        return "The provider made no task and nothing will submit it again; submit anew if you want it."
    return ""
