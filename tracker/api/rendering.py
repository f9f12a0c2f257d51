"""Convert values of the tracker to API models. Callback URLs and their tokens are never shown."""

import hashlib
import re
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from tracker.api import health_schemas, schemas
from tracker.model import event
from tracker.model.records import AccountState, Check, HistoryEntry, Orphan, SharedCallbackUrl, Stats
from tracker.model.task import Task, Trouble
from tracker.rules.learning import Habits

BODY_SHOWN: Final = 4096
# How long a delayed poll counts as a current problem.
BUDGET_SHOWN: Final = timedelta(minutes=1)
# A callback URL, or a bare token (see ``rules.callback_tokens``), wherever a provider's body repeats it.
_ADDRESS: Final = re.compile(
    r'https?:[^\s"]*?/callbacks[^\s"]*|\b1[0-9a-f]{8}[0-9A-Za-z]{1,64}-[\w-]{22}|\bs[\w-]{43}(?![\w-])', re.ASCII
)
# The characters of a URL: every visible character except the quote and the backslash.
_VISIBLE: Final = "2[013-9a-f]|[346][0-9a-f]|5[0-9abd-f]|7[0-9a-e]"
_ESCAPED: Final = re.compile(rf"\\u00({_VISIBLE})", re.IGNORECASE)
_PERCENT: Final = re.compile(f"%({_VISIBLE})", re.IGNORECASE)
PERCENT_LAYERS: Final = 3


def task(task: Task) -> schemas.TaskShown:
    """Show a task."""
    return schemas.TaskShown(**event.task_data(task))


def entry(entry: HistoryEntry, *, with_body: bool) -> schemas.EntryShown:
    """Show one observation. Its body may be about another client's task, so only keys for all clients see it."""
    return schemas.EntryShown(
        id=entry.id,
        at=entry.at,
        source=entry.source,
        trust=event.PUBLISHED_TRUSTS[entry.trust],
        verdict=entry.verdict,
        why=entry.why,
        provider_status=entry.provider_status,
        status=entry.status,
        provider_updated_at=entry.provider_updated_at,
        repeats=entry.repeats,
        body_size=len(entry.body),
        body_sha256=hashlib.sha256(entry.body).hexdigest(),
        body=body_text(entry.body) if with_body else None,
    )


def body_text(body: bytes) -> str | None:
    """Return the beginning of a stored body as text with callback URLs masked, or None if it is not UTF-8."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Masked before it is cut, so that no part of a token is left at the end.
    return _ADDRESS.sub("[callback URL]", _plain(text))[:BODY_SHOWN]


def stats(stats: Stats, habits: Habits) -> schemas.StatsShown:
    """Show the counts, and what the schedule has learned."""
    return schemas.StatsShown(
        by_status=dict(stats.by_status),
        open=stats.open,
        due=stats.due,
        oldest_open_at=stats.oldest_open_at,
        finished_by_source=dict(stats.finished_by_source),
        callbacks=stats.callbacks,
        duplicate_callbacks=stats.duplicate_callbacks,
        unverified_callbacks=stats.unverified_callbacks,
        polls=stats.polls,
        orphans=dict(stats.orphans),
        orphans_not_kept=stats.orphans_not_kept,
        alarms=[schemas.AlarmShown(**asdict(alarm)) for alarm in stats.alarms],
        callback_loss=_callback_loss(habits),
        run_times=_run_times(habits),
    )


def _callback_loss(habits: Habits) -> list[schemas.CallbackLossShown]:
    shown = [
        schemas.CallbackLossShown(
            provider=group.provider,
            kind=group.kind,
            rate=known.loss_rate,
            low=known.loss_bounds[0],
            high=known.loss_bounds[1],
            lost=known.lost,
            tasks=known.tasks,
        )
        for group, known in habits.callbacks.items()
        if group.kind is not None
    ]
    return sorted(shown, key=lambda one: (one.provider, one.kind))


def _run_times(habits: Habits) -> list[schemas.RunTimesShown]:
    shown = [
        schemas.RunTimesShown(
            provider=group.provider,
            kind=group.kind,
            model=group.model,
            median=known.median,
            tasks=len(known.seconds),
        )
        for group, known in habits.run_times.items()
        if group.kind is not None and group.model is not None
    ]
    return sorted(shown, key=lambda one: (one.provider, one.kind, one.model))


def orphan(orphan: Orphan) -> schemas.OrphanShown:
    """Show an orphan callback, without its URL and its body."""
    fields = asdict(orphan)
    return schemas.OrphanShown(**{name: fields[name] for name in schemas.OrphanShown.model_fields})


def shared_callback_url(url: SharedCallbackUrl) -> schemas.CallbackUrlShown:
    """Show a shared callback URL."""
    return schemas.CallbackUrlShown(**asdict(url))


def check(check: Check) -> health_schemas.CheckShown:
    """Show one line of the public health report. It has a detail only if the check failed."""
    detail = "" if check.ok else check.detail
    return health_schemas.CheckShown(name=check.name, ok=check.ok, detail=detail, fatal=check.fatal)


def account(state: AccountState | None, now: datetime) -> list[schemas.AccountTroubleShown]:
    """Show the current problems of an account, the most important first."""
    if state is None:
        return []
    troubles: list[schemas.AccountTroubleShown] = []
    if state.trouble is Trouble.CREDENTIAL:
        troubles.append(_trouble(state))
    if state.waited_at is not None and now - state.waited_at < BUDGET_SHOWN:
        why = "HOMING_POLLS_PER_MINUTE allows no more polls in this minute"
        troubles.append(schemas.AccountTroubleShown(reason="budget", why=why, since=state.waited_at, until=None))
    if state.paused_until is not None and now < state.paused_until:
        why = "the provider asked Homing to wait, or refused several requests"
        troubles.append(schemas.AccountTroubleShown(reason="paused", why=why, since=state.at, until=state.paused_until))
    if state.trouble not in {None, Trouble.CREDENTIAL}:
        troubles.append(_trouble(state))
    return troubles


def _trouble(state: AccountState) -> schemas.AccountTroubleShown:
    assert state.trouble is not None
    return schemas.AccountTroubleShown(reason=state.trouble.value, why=state.why, since=state.since, until=None)


def _plain(text: str) -> str:
    """Return a text with escaped plain characters of JSON and URLs decoded, also if one is inside the other."""
    text = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), text).replace("\\/", "/")
    for _ in range(PERCENT_LAYERS):
        text = _PERCENT.sub(lambda code: chr(int(code[1], 16)), text)
    return text
