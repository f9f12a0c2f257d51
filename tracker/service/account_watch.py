"""Detects trouble with an account at a provider from each answer, and records it for all processes.

A note is a row. So a process that only answers the API shows it too, and so does an operator's command. A change writes
the row. While the trouble lasts, the row is written again at most every ``REPEATED``, because another process may have
written another state.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tracker.errors import HomingError
from tracker.model.changes import Change, RaisedAlarm, RecordChange
from tracker.model.records import AccountNote, AccountState
from tracker.model.task import Alarm, Trouble
from tracker.providers.base import (
    Accepted,
    Account,
    BadCredential,
    Found,
    ListOutcome,
    ManyOutcome,
    Missing,
    Page,
    PollOutcome,
    Rejected,
    SubmitOutcome,
    Unknown,
)
from tracker.service.recorder import Recorder
from tracker.storage.store import Store

# So many bad answers in a row mean trouble of the account, not of one request.
IN_A_ROW: Final = 3
REPEATED: Final = timedelta(seconds=30)
SAME_PAUSE: Final = timedelta(seconds=1)
CREDENTIAL_REFUSED: Final = "the provider refuses Homing's credential"


@dataclass(slots=True)
class _Seen:
    """What this process observed of one account: the last sort of answer, its count in a row, and the last record."""

    trouble: Trouble | None = None
    in_a_row: int = 0
    answered: bool = False
    recorded: Trouble | None = None
    recorded_at: datetime | None = None
    paused_until: datetime | None = None
    waited_at: datetime | None = None


class AccountWatch:
    """Watches the accounts of one process. Notes are committed in the background, so no request waits for them."""

    def __init__(self, *, store: Store, recorder: Recorder, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._recording: set[asyncio.Task[None]] = set()

    def answered(self, account: Account, outcome: PollOutcome | ManyOutcome | ListOutcome | SubmitOutcome) -> None:
        """Note one answer to a request. Unknown means that no answer came."""
        shown = _shown(outcome)
        if shown is None:
            return
        trouble, why = shown
        seen = self._of(account)
        seen.in_a_row = seen.in_a_row + 1 if trouble is seen.trouble else 1
        seen.trouble = trouble
        now = self._clock()
        alarms: tuple[RaisedAlarm, ...] = ()
        name = account.provider.name
        note = AccountNote(provider=name, account=account.name, at=now, trouble=trouble, why=why)
        if trouble is None:
            seen.answered = True
            note = msgspec.structs.replace(note, answered_at=now)
        else:
            # A provider may refuse a working credential for one task alone. A credential that never worked counts at
            # once.
            first = trouble is Trouble.CREDENTIAL and not seen.answered
            if seen.in_a_row < IN_A_ROW and not first:
                return
            if trouble is Trouble.UNREADABLE:
                detail = f"{seen.in_a_row} answers in a row could not be read: {why}"
                alarms = (
                    RaisedAlarm(kind=Alarm.UNREADABLE_ANSWER, provider=name, at=now, task_id=None, detail=detail),
                )
        known = seen.recorded_at is not None and now - seen.recorded_at < REPEATED
        if known and seen.recorded is trouble:
            if alarms:
                self._record(None, alarms)
            return
        seen.recorded, seen.recorded_at = trouble, now
        self._record(note, alarms)

    def paused(self, account: Account, until: datetime) -> None:
        """Record that Homing sends nothing for the account until ``until``."""
        seen, now = self._of(account), self._clock()
        # Concurrent requests can pause the account several times.
        if seen.paused_until is None or until - seen.paused_until >= SAME_PAUSE:
            seen.paused_until = until
            note = AccountNote(provider=account.provider.name, account=account.name, at=now, paused_until=until)
            self._record(note, ())

    def out_of_budget(self, account: Account) -> None:
        """Note that a poll had to wait because the budget was used up."""
        seen, now = self._of(account), self._clock()
        if seen.waited_at is None or now - seen.waited_at >= REPEATED:
            seen.waited_at = now
            note = AccountNote(provider=account.provider.name, account=account.name, at=now, waited_at=now)
            self._record(note, ())

    async def state(self, provider: str, account: str) -> AccountState | None:
        """Return the recorded state of an account, from any process. None means that nothing is recorded."""
        states = await self._store.accounts.states()
        return next((one for one in states if (one.provider, one.account) == (provider, account)), None)

    async def close(self) -> None:
        """Wait until each note is recorded, or has failed to be recorded."""
        await asyncio.gather(*self._recording)

    def _of(self, account: Account) -> _Seen:
        return self._seen.setdefault((account.provider.name, account.name), _Seen())

    def _record(self, note: AccountNote | None, alarms: Sequence[RaisedAlarm]) -> None:
        recording = asyncio.create_task(self._commit(note, tuple(alarms)), name="homing account watch")
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)

    async def _commit(self, note: AccountNote | None, alarms: tuple[RaisedAlarm, ...]) -> None:
        try:
            await self._recorder.apply(RecordChange(Change(result=None, account=note, alarms=alarms)))
        except HomingError:
            # Other code reports the database error. The next answer is noted again.
            if note is not None:
                seen = self._seen[note.provider, note.account]
                seen.recorded_at = seen.paused_until = seen.waited_at = None


def _shown(outcome: PollOutcome | ManyOutcome | ListOutcome | SubmitOutcome) -> tuple[Trouble | None, str] | None:
    """Return the trouble that an answer shows and the reason.

    Return (None, "") if the answer shows no trouble, and None if it shows nothing about the account.
    """
    if isinstance(outcome, BadCredential):
        return Trouble.CREDENTIAL, CREDENTIAL_REFUSED
    if isinstance(outcome, Unknown):
        return Trouble.UNREADABLE if outcome.unreadable else Trouble.OUTAGE, outcome.why
    # A temporary refusal, or the refusal of one call, shows nothing about the account.
    return (None, "") if isinstance(outcome, Found | Missing | Accepted | Rejected | Page | list | tuple) else None
