"""Discovery of tasks without a row: it checks orphan callbacks and the provider's list of tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tracker.errors import HomingError, ProviderUnavailable
from tracker.model.records import Orphan
from tracker.model.task import ClientIdentity, Task
from tracker.providers.base import Account, BadCredential, Busy, Found, KeyPair, Missing, Page, Unknown, Unsupported
from tracker.providers.masking import masked
from tracker.rules.learning import Group
from tracker.service.adoption import Adoption, TrackRequest
from tracker.service.budget import Budgets
from tracker.service.learner import Learner
from tracker.service.polling import Poll, Poller
from tracker.storage.store import Store

ORPHAN_CHECKS: Final = 3
# Half an hour, for a provider that does not answer, and for a task whose kind no query shows.
MOST_CHECKS: Final = 60
# So many checks query every kind at least once, also if the budget ends some of them early.
SCAN_CHECKS: Final = 20
# A check of an orphan of unknown kind queries so many kinds. The next check goes on with the next ones.
KINDS_PER_CHECK: Final = 4
ORPHAN_GAP: Final = timedelta(seconds=30)
LIST_PAGES: Final = 1_000
UNRESOLVED: Final = 1_000
WINDOW: Final = timedelta(minutes=1)
ORIGIN: Final = "discover"
DELETED: Final = "its task was deleted after the retention time"
UNKNOWN_ID: Final = "the provider does not know it"
KIND_UNKNOWN: Final = "the provider has it, but its kind is not known yet"
NO_ANSWER: Final = "Homing could not get it from the provider"
DISCOVERER: Final = ClientIdentity(name="local")


class NoList(ProviderUnavailable):
    """The provider's address offers no list of a kind."""


@dataclass(slots=True, kw_only=True)
class Discovered:
    """The result of reading the provider's list.

    ``unclear`` counts tasks without a row in a list that does not show their kind. ``deleted`` counts listed tasks that
    retention has deleted. ``candidates`` are pairs of an unresolved task of Homing and a listed ID that may belong to
    it. The operator decides.
    """

    listed: int = 0
    known: int = 0
    adopted: int = 0
    settled: int = 0
    unclear: int = 0
    deleted: int = 0
    candidates: list[tuple[str, str]] = field(default_factory=list)


class Discovery:
    """Adopts tasks of unknown callbacks and lists, after the provider has confirmed them."""

    def __init__(
        self,
        store: Store,
        accounts: Mapping[str, Account],
        poller: Poller,
        adoption: Adoption,
        *,
        learner: Learner,
        budgets: Budgets,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._poller = poller
        self._adoption = adoption
        self._learner = learner
        self._budgets = budgets
        self._clock = clock

    async def check(self, account: Account, orphan: Orphan) -> bool:
        """Poll the provider about an orphan, and adopt it if it is a task of this account.

        The caller has taken one request from the budget. If the kind is unknown, further requests are taken here. A
        task that retention has deleted stays deleted.
        """
        if await self._is_deleted(account, orphan.provider_task_id):
            await self._settle(orphan, state="orphan", why=DELETED)
            return False
        if orphan.kind is not None:
            return await self._check_kinds(account, orphan, [orphan.kind])
        if orphan.why == KIND_UNKNOWN:
            return await self._check_kinds(account, orphan, self._next_kinds(account, orphan), why=KIND_UNKNOWN)
        # No query for many IDs can carry a comma.
        listed: bool | None = False if "," in orphan.provider_task_id else None
        taken = True
        if listed is None and await self._poller.batches(account):
            taken = False
            outcome = await self._poller.query_many(account, [orphan.provider_task_id])
            if isinstance(outcome, Busy) or (isinstance(outcome, Unknown) and not outcome.unreadable):
                await self._leave(orphan, NO_ANSWER)
                return False
            if isinstance(outcome, Sequence):
                listed = any(found.report.provider_task_id == orphan.provider_task_id for found in outcome)
        if listed is False:
            # The query may not see every task, and the first callback may come before it sees this one.
            return await self._check_kinds(account, orphan, [self._usual_kind(account)], taken=taken)
        why, checks = (KIND_UNKNOWN, MOST_CHECKS) if listed else (UNKNOWN_ID, SCAN_CHECKS)
        kinds = self._next_kinds(account, orphan)
        return await self._check_kinds(account, orphan, kinds, taken=taken, why=why, checks=checks)

    async def _check_kinds(
        self,
        account: Account,
        orphan: Orphan,
        kinds: Sequence[str],
        *,
        taken: bool = True,
        why: str = UNKNOWN_ID,
        checks: int = ORPHAN_CHECKS,
    ) -> bool:
        """Query some kinds, as far as the budget allows. ``why`` is what is known if the provider denies all of them.

        ``taken`` means that the first request was taken from the budget. ``checks`` is how many denials end the checks.
        """
        for name in kinds:
            if not taken and not self._budgets.of(account.id).take_for_orphan(self._clock()):
                break
            taken = False
            outcome = await self._poller.query(account, name, orphan.provider_task_id)
            if isinstance(outcome, Found):
                return await self._confirmed(account, orphan, name, outcome)
            if not isinstance(outcome, Missing):
                why = KIND_UNKNOWN if why == KIND_UNKNOWN else NO_ANSWER
            if isinstance(outcome, Busy | BadCredential) or (isinstance(outcome, Unknown) and not outcome.unreadable):
                break
        await self._leave(orphan, why, checks=checks)
        return False

    def _next_kinds(self, account: Account, orphan: Orphan) -> Sequence[str]:
        """Return the kinds of this check: some after those of the last one, and after all of them again the first ones.

        A query that also finds tasks of other kinds would not show the kind.
        """
        kinds = [name for name, kind in account.provider.kinds.items() if kind.own_queries]
        start = orphan.poll_count * KINDS_PER_CHECK
        following = [kinds[(start + step) % len(kinds)] for step in range(KINDS_PER_CHECK)]
        return list(dict.fromkeys([self._usual_kind(account), *following]))

    def _usual_kind(self, account: Account) -> str:
        """Return the kind with the most finished tasks of late, or the provider's first kind."""
        learned = self._learner.habits.run_times

        def finished(kind: str) -> int:
            known = learned.get(Group(account.provider.name, kind))
            return 0 if known is None else len(known.seconds)

        return max((name for name, kind in account.provider.kinds.items() if kind.own_queries), key=finished)

    async def _confirmed(self, account: Account, orphan: Orphan, kind: str, found: Found) -> bool:
        # The callback has only Homing's ID. Only the provider knows which of its tasks that is.
        if await self._is_deleted(account, found.report.provider_task_id):
            await self._settle(orphan, state="orphan", why=DELETED)
            return False
        try:
            task = await self._adopt(ClientIdentity(name=orphan.client), account, kind, found)
        except HomingError as error:
            await self._leave(orphan, error.detail)
            return False
        await self._settle(orphan, state="adopted", why="the provider confirmed it", task_id=task.id)
        return True

    async def _leave(self, orphan: Orphan, why: str, *, checks: int = ORPHAN_CHECKS) -> None:
        """Check the orphan callback again later, unless the provider has denied it often enough.

        The first callback may come before the provider's queries know the task, so one denial is not enough. Without
        any clear answer it stays an orphan after ``MOST_CHECKS``.
        """
        made = orphan.poll_count + 1
        denied = why == UNKNOWN_ID == orphan.why
        done = made >= MOST_CHECKS or (denied and made >= checks)
        await self._settle(orphan, state="orphan" if done else "waiting", why=why)

    async def discover(self, provider: str, kind: str, *, client: ClientIdentity = DISCOVERER) -> Discovered:
        """Read the provider's list and adopt tasks without a row for ``client``.

        A listed task with the row's own external ID or callback URL is the task of that row. Another one without an
        external ID may belong to an unresolved submission. The list cannot verify that, so Homing leaves it to the
        operator. A list that does not show the kinds of its tasks only helps unresolved submissions, so without any of
        them it is not read.

        Raises: NoList, and ProviderUnavailable, if a page cannot be read.
        """
        account = self._accounts[provider]
        if account.provider.kinds[kind].needs_api_key and isinstance(account.credential, KeyPair):
            raise NoList(f"the list of {kind} needs an API key instead of an access key")
        result = Discovered()
        unresolved = await self._store.tasks.unresolved(provider=provider, kind=kind, limit=UNRESOLVED)
        if not unresolved and not account.provider.kinds[kind].own_queries:
            return result
        cursor: str | None = None
        for page in range(1, LIST_PAGES + 1):
            outcome = await self._poller.list_page(account, kind, cursor)
            if isinstance(outcome, Unsupported) and page == 1:
                raise NoList(f"the provider has no list of {kind}")
            if not isinstance(outcome, Page):
                why = masked(_why(outcome), account.credential)
                raise ProviderUnavailable(f"page {page} of the provider's list could not be read: {why}")
            for found in outcome.found:
                await self._take(client, account, kind, found, unresolved, result)
            if (cursor := outcome.next) is None:
                break
        return result

    async def _take(
        self,
        client: ClientIdentity,
        account: Account,
        kind: str,
        found: Found,
        unresolved: Sequence[Task],
        result: Discovered,
    ) -> None:
        report = found.report
        result.listed += 1
        if report.provider_task_id is None:
            return
        if await self._known(account, report.provider_task_id) is not None:
            result.known += 1
            return
        if await self._is_deleted(account, report.provider_task_id):
            result.deleted += 1
            return
        ours = report.external_id
        own = next((task for task in unresolved if ours is not None and ours == task.sent_external_id), None)
        own = own or await self._adoption.awaited(account, found)
        if own is not None:
            await self._poller.record(Poll(task=own, account=account, at=self._clock()), found)
            result.settled += 1
            return
        if not account.provider.kinds[kind].own_queries:
            result.unclear += 1
            return
        maybe = [task for task in unresolved if report.external_id is None and _at_the_time_of(task, report.created_at)]
        if maybe:
            result.candidates.extend((task.id, report.provider_task_id) for task in maybe)
            return
        task = await self._adopt(client, account, kind, found, origin=ORIGIN)
        result.adopted += task.origin == ORIGIN
        result.settled += task.origin != ORIGIN

    async def _adopt(
        self, client: ClientIdentity, account: Account, kind: str, found: Found, *, origin: str = "callback"
    ) -> Task:
        named = account.provider.kinds[kind]
        request = TrackRequest(client=client, account=account, kind=named, origin=origin)
        return await self._adoption.take(request, found)

    async def _known(self, account: Account, provider_task_id: str) -> Task | None:
        task = await self._store.tasks.find_ref(provider_task_id, client=None, provider=account.provider.name)
        return task if task is not None and task.provider_task_id == provider_task_id else None

    async def _is_deleted(self, account: Account, provider_task_id: str | None) -> bool:
        """Return whether retention has deleted a task. Later reports about it do not make a new task."""
        if provider_task_id is None:
            return False
        named = (account.provider.name, account.name, provider_task_id)
        return await self._store.retention.deleted_task(*named) is not None

    async def _settle(self, orphan: Orphan, *, state: str, why: str, task_id: str | None = None) -> None:
        again = self._clock() + ORPHAN_GAP if state == "waiting" else None
        await self._store.orphans.settle(orphan.id, state=state, why=why, next_poll_at=again, task_id=task_id)


def _why(outcome: Busy | BadCredential | Unknown | Unsupported) -> str:
    return outcome.message if isinstance(outcome, Busy | BadCredential) else outcome.why


def _at_the_time_of(task: Task, created_at: datetime | None) -> bool:
    if created_at is None:
        return True
    last = task.attempt_deadline_at or task.created_at
    return task.created_at - WINDOW <= created_at <= last + WINDOW
