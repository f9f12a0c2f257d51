"""The store: every verb over one database. All SQL is in this package.

Writes that follow from a decision go through ``apply`` (see ``batch``); the few that need none (leases, addresses,
capabilities) have verbs of their own. Every verb is one transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Executable, Select, and_, func, insert, select, update
from sqlalchemy.engine import RowMapping

from tracker.model.changes import Work
from tracker.model.clock import Reading
from tracker.model.records import (
    AccountState,
    Action,
    AuditEntry,
    Completion,
    HistoryEntry,
    Orphan,
    StandingAddress,
    Stats,
    TaskFilter,
    TaskPage,
)
from tracker.model.servers import Heartbeat, Server
from tracker.model.task import Status, Task
from tracker.storage import (
    accounts,
    audit,
    due_tasks,
    expiring_results,
    migrate,
    orphans,
    pages,
    retention,
    rows,
    sent,
    servers,
    statistics,
)
from tracker.storage.audit import AuditStore
from tracker.storage.batch_store import BatchStore
from tracker.storage.engine import locks
from tracker.storage.engine.continuity import Continuity
from tracker.storage.engine.database import BUSY, Database
from tracker.storage.engine.notices import PostgresNotices
from tracker.storage.engine.plans import aside
from tracker.storage.event_store import EventStore
from tracker.storage.generated_secrets import GeneratedSecrets
from tracker.storage.orphan_table import ORPHANS
from tracker.storage.rehearsal import rehearse
from tracker.storage.tables import ADDRESSES, CAPABILITIES, OBSERVATIONS, SUBMISSIONS, TASKS

T = TypeVar("T")

HISTORY_LIMIT: Final = 1000


class Store:
    """One database, opened by ``open``; ``busy`` is how long a locked one is waited for.

    ``schema`` is PostgreSQL's schema that the tables are in, None: the usual one. Raises SettingsError.
    """

    def __init__(self, database_url: str, *, busy: timedelta = BUSY, schema: str | None = None) -> None:
        self._database = Database(database_url, busy=busy, schema=schema)
        self.audit = AuditStore(self._database)
        self.outbox = EventStore(self._database)
        self._batches = BatchStore(self._database, self.outbox)
        self.secrets = GeneratedSecrets(self._database)

    @property
    def name(self) -> str:
        """The database's address, without a password."""
        return self._database.name

    @property
    def shared(self) -> bool:
        """Return whether several processes may serve the database at once."""
        return self._database.backend.shared

    @property
    def notices(self) -> PostgresNotices | None:
        """How processes that share the database hint to each other; None where only one serves it."""
        return PostgresNotices(self._database.url, self._database.schema) if self.shared else None

    @property
    def batches_at_once(self) -> int:
        """How many batches it takes at once; what is handed over first is first decided."""
        return self._database.backend.batches_at_once

    @property
    def continuity(self) -> Continuity:
        """What notices whether the database still follows what this process has seen of it."""
        return self._database.backend.continuity

    @property
    def file(self) -> Path | None:
        """The file that is the database, None where it is a server."""
        return self._database.backend.file

    async def open(self) -> None:
        """Connect. A file's schema is brought up to date; a server's must be so already: others may be using it.

        Raises StoreUnavailable; what cannot be opened is closed again.
        """
        if self.shared:
            await self._open(migrate.check)
        else:
            await self._open(migrate.upgrade)

    async def migrate(self) -> migrate.Upgrade:
        """Bring the schema up to date, whatever the database is, tell what that took, and close."""
        done = await self._open(partial(migrate.upgrade, schema=self._database.schema))
        await self.close()
        return done

    async def _open(self, ready: Callable[[Connection], T]) -> T:
        await self._database.open()
        try:
            return await self._database.write(ready)
        except BaseException:
            await self._database.close()
            raise

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        """Write as a request would, and commit. Raises StoreUnavailable, or the driver's error for a missing table."""
        await self._database.write(rehearse)

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Decide and commit a batch; see ``batch.apply``."""
        return await self._batches.apply(works)

    async def continue_numbers(self) -> None:
        """Continue event numbers beyond all used in any earlier state of the database, which may have been restored."""
        await self._batches.continue_numbers()

    async def task(self, task_id: str) -> Task | None:
        return await self._database.read(_one, select(TASKS).where(TASKS.c.id == task_id))

    async def find_ref(
        self, ref: str, *, client: str | None, provider: str | None = None, kind: str | None = None
    ) -> Task | None:
        """Find a task by our id, the provider's, or a client's external id; ``client`` None sees all clients'.

        Our id wins, then the provider's; of several external ids the live one, then the newest.
        """
        return await self._database.read(_find_ref, ref, client=client, provider=provider, kind=kind)

    async def page(self, wanted: TaskFilter, *, limit: int, cursor: str | None) -> TaskPage:
        """Return one page, newest first; the cursor is the last id shown."""
        found = await self._database.read(pages.find, wanted, limit=limit + 1, before=cursor)
        shown = found[:limit]
        return TaskPage(tasks=tuple(shown), next_cursor=shown[-1].id if len(found) > limit else None)

    async def numbered_page(self, wanted: TaskFilter, *, offset: int, limit: int) -> Sequence[Task]:
        """Return one numbered page, newest first, for the provider-shaped list."""
        return await self._database.read(pages.find, wanted, limit=limit, offset=offset)

    async def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """Return the newest kept observations of a task, at most ``HISTORY_LIMIT``, oldest first."""
        return await self._database.read(_history, task_id)

    async def submission(self, task_id: str) -> bytes | None:
        """Return the kept body of a submit that the provider does not provably have."""
        statement = select(SUBMISSIONS.c.body).where(SUBMISSIONS.c.task_id == task_id)
        found: bytes | None = await self._database.read(_scalar, statement)
        return found

    async def is_due(self, now: datetime, *, lease: timedelta, orphans: bool = True) -> bool:
        """Return whether a task that nobody has leased, or an orphan, is due: a look that writes nothing."""
        return await self._database.read(due_tasks.is_due, now=now, lease=lease, orphans=orphans)

    async def bring_forward(self, *, now: datetime, furthest: timedelta, expired: timedelta) -> int:
        """Make due what is planned further away than it can be; see ``due_tasks.bring_forward``."""
        return await self._database.write(due_tasks.bring_forward, now=now, furthest=furthest, expired=expired)

    async def claim_due(self, *, now: datetime, limit: int, owner: str, lease: timedelta) -> Sequence[Task]:
        """Lease the tasks that are due, longest due first, to ``owner``; leases of others are respected."""
        return await self._database.write(due_tasks.claim_due, now=now, limit=limit, owner=owner, lease=lease)

    async def release(self, *, owner: str, margin: timedelta) -> int:
        """Take the leases of questions from every other owner, and tell how many."""
        return await self._database.write(due_tasks.release, TASKS.c.lease_owner != owner, margin=margin)

    async def beat(
        self, me: Server, *, silence: timedelta, margin: timedelta, own: Callable[[], datetime]
    ) -> Heartbeat:
        """Record the heartbeat of this process (see ``servers.beat``), and notice a restored database."""
        await self._database.write(locks.check_table, highest=self.continuity.highest)
        return await self._database.write(servers.beat, me, silence=silence, margin=margin, own=own)

    async def leave(self, owner: str, *, margin: timedelta) -> None:
        """Release the leases of ``owner``, and delete its row among the servers."""
        await self._database.write(servers.leave, owner, margin=margin)

    async def servers(self, *, silence: timedelta) -> Sequence[Server]:
        """Return the processes that serve a shared database."""
        return await self._database.read(servers.alive, silence=silence)

    async def last_seen(self, owner: str) -> datetime | None:
        """Return when a process that serves a shared database was heard last, None where it is gone."""
        return await self._database.read(servers.last_seen, owner)

    async def read_clock(self, own: Callable[[], datetime]) -> Reading:
        """Read the clock of a shared database between two looks at ``own``."""
        return await self._database.read(servers.read_clock, own)

    async def revision(self) -> str | None:
        """Return the revision of the schema."""
        return await self._database.read(migrate.revision)

    async def unresolved(self, *, provider: str, kind: str, limit: int) -> Sequence[Task]:
        """Return the pending tasks of a kind whose submit may have been lost, oldest first."""
        pending = and_(TASKS.c.status == Status.PENDING.value, TASKS.c.provider == provider, TASKS.c.kind == kind)
        statement = select(TASKS).where(pending, TASKS.c.attempts > 0).order_by(TASKS.c.id).limit(limit)
        return await self._database.read(_tasks, statement)

    async def latest_accepted(self, *, provider: str, account: str, kind: str) -> Task | None:
        """Return the newest task of a kind that we submitted and that the provider has, also one that is over."""
        return await self._database.read(sent.latest_accepted, provider, account, kind)

    async def sent_id_used(self, provider: str, account: str, external_id: str) -> bool:
        """Return whether a row of the account has an external ID, or had it before it was deleted."""
        return await self._database.read(sent.id_used, provider, account, external_id)

    async def next_due(self) -> datetime | None:
        """Return when the next task is due, leases aside."""
        due = TASKS.c.next_poll_at
        first = await self._database.read(_scalar, select(func.min(due)).where(due.is_not(None)))
        return None if first is None else rows.moment(first)

    async def completions(
        self, *, after: tuple[datetime, str] | None, until: datetime, limit: int
    ) -> Sequence[Completion]:
        """Return tasks that finished by ``until``, by (finished_at, id): those after the cursor, else the newest."""
        return await self._database.read(statistics.completions, after=after, until=until, limit=limit)

    async def delete_old(
        self, *, until: datetime, now: datetime, after: retention.Place | None, limit: int
    ) -> retention.Deleted:
        """Delete a few of the tasks, orphans and alarms that were over by ``until``; see ``retention.delete_old``."""
        return await self._database.write(retention.delete_old, until=until, now=now, after=after, limit=limit)

    async def warn_of_expiry(
        self, provider: str, *, lifetime: timedelta, notice: timedelta, now: datetime, limit: int
    ) -> int:
        """Raise an alarm for the next tasks whose results stop working within ``notice``: ``expiring_results.warn``."""
        raised = await self._database.write(
            expiring_results.warn, provider, lifetime=lifetime, notice=notice, now=now, limit=limit
        )
        self._batches.alarm_log.say(raised)
        return sum(alarm.count for alarm in raised)

    async def forgotten(self, provider: str, account: str, its_id: str) -> str | None:
        """Return the ID of a deleted task by the provider's ID or by a derived external ID, as long as it is kept."""
        return await self._database.read(retention.forgotten, provider, account, its_id)

    async def due_orphans(self, *, now: datetime, limit: int) -> Sequence[Orphan]:
        """Return orphans whose check is due; see ``orphans.due``."""
        return await self._database.read(orphans.due, now=now, limit=limit)

    async def orphans(self, *, limit: int) -> Sequence[Orphan]:
        """Return the orphans, latest delivery first."""
        return await self._database.read(_orphans, select(ORPHANS).order_by(ORPHANS.c.last_at.desc()).limit(limit))

    async def settle_orphan(
        self, orphan_id: int, *, state: str, why: str, next_check_at: datetime | None, task_id: str | None
    ) -> None:
        """Write down what came of checking an orphan."""
        await self._database.write(
            orphans.settle, orphan_id, state=state, why=why, next_check_at=next_check_at, task_id=task_id
        )

    async def capability(self, base_url: str, kind: str, name: str) -> tuple[bool, datetime] | None:
        """Return whether an address was seen to do something, and when; None where it was never tried."""
        table = CAPABILITIES
        statement = select(table.c.present, table.c.at).where(
            table.c.base_url == base_url, table.c.kind == kind, table.c.name == name
        )
        found = await self._database.read(_mapping, statement)
        return None if found is None else (found["present"], rows.moment(found["at"]))

    async def account_states(self) -> Sequence[AccountState]:
        """Return what was noticed about each account."""
        return await self._database.read(accounts.states)

    async def generated_secret(self, name: str, fresh: bytes) -> bytes:
        """Return the secret kept under ``name``, keeping ``fresh`` if there is none yet."""
        return await self.secrets.get(name, fresh)

    async def add_address(self, address: StandingAddress, token_hash: str) -> StandingAddress:
        """Keep a standing address under the hash of its token, give it its id, and record who made it."""
        values = {
            "provider": address.provider,
            "kind": address.kind,
            "client": address.client,
            "label": address.label,
            "token_hash": token_hash,
            "created_at": rows.stamp(address.created_at),
            "revoked_at": None,
        }
        statement = insert(ADDRESSES).values(values).returning(ADDRESSES)
        return await self.audit.run(partial(_added, statement=statement), audit.callback_url_made)

    async def addresses(self) -> Sequence[StandingAddress]:
        found = await self._database.read(_mappings, select(ADDRESSES).order_by(ADDRESSES.c.id))
        return [rows.address_from_row(row) for row in found]

    async def address_of(self, provider: str, token_hash: str) -> StandingAddress | None:
        """Find the live address of a token."""
        statement = select(ADDRESSES).where(
            ADDRESSES.c.token_hash == token_hash, ADDRESSES.c.provider == provider, ADDRESSES.c.revoked_at.is_(None)
        )
        found = await self._database.read(_mapping, statement)
        return None if found is None else rows.address_from_row(found)

    async def revoke_address(self, address_id: int, *, by: str, now: datetime) -> StandingAddress | None:
        """Revoke a standing address, and record who did; None where there is none."""
        statement = (
            update(ADDRESSES)
            .where(ADDRESSES.c.id == address_id)
            .values(revoked_at=func.coalesce(ADDRESSES.c.revoked_at, rows.stamp(now)))
            .returning(ADDRESSES)
        )

        entry = AuditEntry(at=now, client=by, action=Action.REVOKE_CALLBACK_URL, object=str(address_id))

        found = await self.audit.run(partial(_mapping, statement=statement), lambda row: entry if row else None)
        return None if found is None else rows.address_from_row(found)

    async def stats(self, *, client: str | None, now: datetime) -> Stats:
        """Count; the running counts, orphans and alarms belong to no client and are only in the whole."""
        return await self._database.read(statistics.stats, client=client, now=now)


def _find_ref(
    connection: Connection, ref: str, *, client: str | None, provider: str | None, kind: str | None
) -> Task | None:
    scope = [
        aside(column) == value
        for column, value in ((TASKS.c.client, client), (TASKS.c.provider, provider), (TASKS.c.kind, kind))
        if value is not None
    ]
    for condition in (TASKS.c.id == ref, TASKS.c.provider_task_id == ref, TASKS.c.external_id == ref):
        statement = select(TASKS).where(condition, *scope).order_by(TASKS.c.released, TASKS.c.id.desc()).limit(1)
        if (task := _one(connection, statement)) is not None:
            return task
    return None


def _history(connection: Connection, task_id: str) -> list[HistoryEntry]:
    column = OBSERVATIONS.c
    newest = select(OBSERVATIONS).where(column.task_id == task_id).order_by(column.id.desc()).limit(HISTORY_LIMIT)
    return [rows.entry_from_row(row) for row in reversed(_mappings(connection, newest))]


def _tasks(connection: Connection, statement: Select[Any]) -> list[Task]:
    return [rows.task_from_row(row) for row in connection.execute(statement).mappings()]


def _one(connection: Connection, statement: Select[Any]) -> Task | None:
    found = _tasks(connection, statement)
    return found[0] if found else None


def _orphans(connection: Connection, statement: Select[Any]) -> list[Orphan]:
    return [rows.orphan_from_row(row) for row in connection.execute(statement).mappings()]


def _scalar(connection: Connection, statement: Executable) -> Any:  # noqa: ANN401 - whatever the column holds
    return connection.execute(statement).scalar_one_or_none()


def _mapping(connection: Connection, statement: Executable) -> RowMapping | None:
    return connection.execute(statement).mappings().one_or_none()


def _added(connection: Connection, statement: Executable) -> StandingAddress:
    return rows.address_from_row(connection.execute(statement).mappings().one())


def _mappings(connection: Connection, statement: Executable) -> Sequence[RowMapping]:
    return connection.execute(statement).mappings().all()


def _execute(connection: Connection, statement: Executable) -> None:
    connection.execute(statement)
