"""Sends queries to the provider, and learns what its URL offers. Every failure is an outcome."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from tracker.errors import NotSent, ReplyLost
from tracker.model.changes import Change, RecordChange, Seen
from tracker.providers.base import (
    Account,
    Call,
    ListOutcome,
    ManyOutcome,
    Missing,
    PollOutcome,
    Query,
    Reply,
    Unknown,
    Unsupported,
)
from tracker.rules.polls import BATCH_QUERY, LIST_QUERY
from tracker.service.account_watch import AccountWatch
from tracker.service.lookups import TRUSTED_FOR
from tracker.service.recorder import Recorder
from tracker.storage.store import Store
from tracker.transport import Sender

Outcome = TypeVar("Outcome", PollOutcome, ManyOutcome, ListOutcome)

# In bytes. Reading such a reply takes some milliseconds.
LARGE_REPLY: Final = 64 * 1024


class ProviderQueries:
    """The queries about one task, about many, and for a page of a list. ``time`` is how long one may take."""

    def __init__(
        self,
        store: Store,
        *,
        recorder: Recorder,
        transport: Sender,
        time: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self.watch = AccountWatch(store=store, recorder=recorder, clock=clock)
        self._store = store
        self._recorder = recorder
        self._transport = transport
        self._time = time
        self._clock = clock

    async def query(
        self,
        account: Account,
        kind: str,
        task_id: str,
        *,
        external: bool = False,
        within: timedelta | None = None,
    ) -> PollOutcome:
        """Send one query, and return every failure as an outcome. ``external`` means that Homing made the ID."""
        wanted = Query(kind=kind, task_id=task_id, external=external)
        call = account.provider.query(wanted)
        if call is None:
            # A task may have this external ID, but no query can carry it. A provider ID of this form does not exist.
            return Missing(
                message="there is no query for this external ID"
                if external
                else "no task of the provider can have this ID"
            )
        time = self._time if within is None else min(within, self._time)
        read = partial(account.provider.read_query, wanted=wanted)
        return await self._answer(account, call, read, within=time)

    async def query_many(self, account: Account, task_ids: Sequence[str]) -> ManyOutcome:
        """Query many tasks with one call, by the provider's IDs. Return every failure as an outcome."""
        call = account.provider.query_many(task_ids)
        outcome = await self._answer(account, call, account.provider.read_query_many, within=self._time)
        if isinstance(outcome, Unsupported):
            await self._lacks(account, "", BATCH_QUERY)
        return outcome

    async def list_page(self, account: Account, kind: str, cursor: str | None) -> ListOutcome:
        """Query one page of the account's tasks, None for the first. Return every failure as an outcome."""
        call = account.provider.list_page(kind, cursor)
        read = partial(account.provider.read_list, kind=kind, cursor=cursor)
        outcome = await self._answer(account, call, read, within=self._time)
        if isinstance(outcome, Unsupported):
            await self._lacks(account, kind, LIST_QUERY)
        return outcome

    async def _lacks(self, account: Account, kind: str, name: str) -> None:
        """Record that the URL lacks a capability."""
        seen = Seen(base_url=account.base_url, kind=kind, name=name, present=False, at=self._clock())
        await self._recorder.apply(RecordChange(Change(result=None, seen=(seen,))))

    async def _answer(
        self, account: Account, call: Call, read: Callable[[Reply], Outcome], *, within: timedelta
    ) -> Outcome | Unknown:
        """Send a query and read its answer. The account watch takes note of the answer."""
        outcome: Outcome | Unknown
        try:
            reply = await self._transport.send(account, call, now=self._clock(), within=within)
            # A page of a list can be megabytes long. Reading it must not delay callbacks.
            outcome = await asyncio.to_thread(read, reply) if len(reply.body) > LARGE_REPLY else read(reply)
        except (NotSent, ReplyLost) as error:
            outcome = Unknown(why=error.detail)
        self.watch.answered(account, outcome)
        return outcome

    async def batches(self, account: Account) -> bool:
        """Return whether the URL is known to accept many IDs in one query."""
        return account.provider.capabilities.batch_size > 0 and await self._may_have(account, "", BATCH_QUERY)

    async def lists(self, account: Account, kind: str) -> bool:
        """Return whether the URL may offer the list of a kind."""
        return account.provider.capabilities.lists_tasks and await self._may_have(account, kind, LIST_QUERY)

    async def _may_have(self, account: Account, kind: str, name: str) -> bool:
        seen = await self._store.accounts.capability(account.base_url, kind, name)
        return seen is None or seen[0] or self._clock() - seen[1] > TRUSTED_FOR
