"""Test that account trouble is one row, on both databases."""

from datetime import timedelta
from typing import Any

from tests.support.builders import NOW
from tracker.model.changes import Change, RecordChange
from tracker.model.records import AccountNote, AccountState
from tracker.model.task import Trouble
from tracker.storage.store import Store

MINUTE = timedelta(minutes=1)


async def recorded_calls(store: Store, *minutes: int, **values: Any) -> AccountState:
    """Record one note for each minute in one batch, and return the resulting account state."""
    notes = [AccountNote(provider="kling", account="default", at=NOW + MINUTE * number, **values) for number in minutes]
    await store.apply([RecordChange(Change(result=None, account=note)) for note in notes])
    (state,) = await store.accounts.states()
    return state


async def test_account_trouble_that_lasts_keeps_its_beginning(store: Store) -> None:
    await recorded_calls(store, 0, trouble=Trouble.OUTAGE, why="no answer")

    state = await recorded_calls(store, 2, 1, trouble=Trouble.OUTAGE, why="still none")

    assert (state.trouble, state.why, state.since, state.at) == (Trouble.OUTAGE, "still none", NOW, NOW + MINUTE * 2)


async def test_account_pause_and_wait_leave_its_trouble(store: Store) -> None:
    await recorded_calls(store, 0, trouble=Trouble.CREDENTIAL, why="refused")
    await recorded_calls(store, 1, paused_until=NOW + MINUTE * 5)

    state = await recorded_calls(store, 2, waited_at=NOW + MINUTE * 2)

    assert (state.trouble, state.why, state.since) == (Trouble.CREDENTIAL, "refused", NOW)
    assert (state.paused_until, state.waited_at) == (NOW + MINUTE * 5, NOW + MINUTE * 2)


async def test_account_good_answer_ends_its_trouble(store: Store) -> None:
    await recorded_calls(store, 0, trouble=Trouble.CREDENTIAL, why="refused")

    state = await recorded_calls(store, 1, answered_at=NOW + MINUTE)

    assert (state.trouble, state.why, state.answered_at) == (None, "", NOW + MINUTE)
