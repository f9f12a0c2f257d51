"""Polls and lookups on behalf of clients, within the budget that they share with the loops."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from tracker.errors import NotFound
from tracker.model.task import ClientIdentity, Task
from tracker.providers.base import Account, Kind
from tracker.rules.schedule import Policy
from tracker.service.adoption import Adoption, TrackRequest
from tracker.service.budget import Budgets
from tracker.service.polling import PollAnswer, Poller

REMEMBERED: Final = 1_000
FETCH: Final = "fetch"
ASKED_AT_ONCE: Final = 4


class ClientPolls:
    """Polls tasks for clients. Concurrent requests for one task share one poll."""

    def __init__(
        self,
        *,
        poller: Poller,
        adoption: Adoption,
        budgets: Budgets,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._poller = poller
        self._adoption = adoption
        self._budgets = budgets
        self._fresh = policy.fresh
        self._clock = clock
        self._asking: dict[str, asyncio.Task[PollAnswer]] = {}
        # The results of the last polls, as sentences. The row has only their time.
        self._said: OrderedDict[str, str] = OrderedDict()

    async def poll(self, client: ClientIdentity, task: Task, account: Account) -> tuple[Task, str]:
        """Poll a task now, or return the answer of a moment ago. Raises TooMany or Overloaded."""
        asking = self._asking.get(task.id)
        if asking is None:
            if self._is_fresh(task):
                return task, self._said.get(task.id, "polled a moment ago. This is the recorded result")
            self._budgets.of(account.id).take_for(client.name, self._clock())
            asking = asyncio.create_task(self._ask(client, task, account))
            self._asking[task.id] = asking
            asking.add_done_callback(partial(self._asked, task.id))
        # Several clients may share the poll, so a client that leaves does not cancel it.
        answer = await asyncio.shield(asking)
        return answer.task, answer.why

    async def attach(self, client: ClientIdentity, task: Task, account: Account, provider_task_id: str) -> Task:
        """Attach a provider ID and poll it. Raises TooMany or Overloaded before it changes anything."""
        if account.credential is not None:
            # The poll may query the external ID too.
            self._budgets.of(account.id).take_for(client.name, self._clock(), 1 + (task.sent_external_id is not None))
        return await self._adoption.attach(client, task, account, provider_task_id)

    async def adopt(self, request: TrackRequest, provider_task_id: str) -> Task:
        """Adopt a running task. Raises TooMany or Overloaded if this needs a poll beyond the budget."""
        known = await self._adoption.known(request, provider_task_id)
        if known is not None:
            return known
        self._budgets.of(request.account.id).take_for(request.client.name, self._clock())
        return await self._adoption.adopt(request, provider_task_id)

    async def fetch(self, client: ClientIdentity, account: Account, kind: Kind, ref: str) -> Task:
        """Return a task of a kind. If it has no row, query the provider once and adopt it. Raises NotFound."""
        task = await self._adoption.found(client, account, ref, kind=kind.name)
        # If the row has another kind, a query to the provider would not help.
        if task is None and await self._adoption.found(client, account, ref) is None:
            task = await self.adopt(TrackRequest(client=client, account=account, kind=kind, origin=FETCH), ref)
        if task is None or task.kind != kind.name:
            raise NotFound("no such task")
        return task

    async def fetch_many(
        self, client: ClientIdentity, account: Account, kind: Kind, refs: Sequence[str]
    ) -> Sequence[Task]:
        """Return the tasks of any kind that ``refs`` name. Leave out refs without a task.

        Query the provider about all references without a row. If the budget is too small for all of them, query none.
        """
        request = TrackRequest(client=client, account=account, kind=kind, origin=FETCH)
        found: dict[str, Task] = {}
        unknown: list[str] = []
        for ref in refs:
            with suppress(NotFound):
                known = await self._adoption.found(client, account, ref)
                if (known := known or await self._adoption.known(request, ref)) is None:
                    unknown.append(ref)
                else:
                    found[ref] = known
        self._budgets.of(account.id).take_for(client.name, self._clock(), len(unknown))
        slots = asyncio.Semaphore(ASKED_AT_ONCE)

        async def one(ref: str) -> None:
            async with slots:
                with suppress(NotFound):
                    found[ref] = await self._adoption.adopt(request, ref)

        await asyncio.gather(*map(one, unknown))
        return [found[ref] for ref in refs if ref in found]

    async def close(self) -> None:
        """Cancel all running polls."""
        for asking in self._asking.values():
            asking.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def _asked(self, task_id: str, asking: asyncio.Task[PollAnswer]) -> None:
        del self._asking[task_id]
        if not asking.cancelled():
            # The waiting requests have the error. If none waits, asyncio must not report the error as never retrieved.
            asking.exception()

    async def _ask(self, client: ClientIdentity, task: Task, account: Account) -> PollAnswer:
        answer = await self._poller.poll(task, account)
        self._budgets.of(account.id).spend_for(client.name, answer.requests - 1)
        self._said[task.id] = answer.why
        self._said.move_to_end(task.id)
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return answer

    def _is_fresh(self, task: Task) -> bool:
        polled = task.polled_at
        if polled is None or (task.last_observed_at is not None and task.last_observed_at > polled):
            return False
        return timedelta() <= self._clock() - polled < self._fresh
