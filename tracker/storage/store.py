"""The store: every query, over one database. All SQL is in this package.

Writes that follow from a decision go through ``apply`` (see ``batch``); the few that need none (leases, addresses,
capabilities) have verbs of their own. Every verb is one transaction.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tracker.models import FINAL, Status, Task
from tracker.storage import batch, rows, tables
from tracker.storage.database import BUSY, Database
from tracker.storage.migrate import upgrade
from tracker.views import HistoryEntry, Orphan, StandingAddress, Stats, TaskFilter, TaskPage
from tracker.work import Work

TASKS: Final = batch.TASKS
ADDRESSES: Final = batch.table(tables.AddressRow)
SECRETS: Final = batch.table(tables.SecretRow)
OPEN: Final = (Status.PENDING, Status.SUBMITTED, Status.PROCESSING)
HISTORY_LIMIT: Final = 1000
ALARM_LIMIT: Final = 50


class Store:
    """One database, opened and migrated by ``open``; ``busy`` is how long a locked one is waited for."""

    def __init__(self, database_url: str, *, busy: timedelta = BUSY) -> None:
        self._database = Database(database_url, busy=busy)

    @property
    def name(self) -> str:
        """The database's address, without a password."""
        return self._database.name

    async def open(self) -> None:
        """Connect, and bring the schema up to date; what cannot be opened is closed again."""
        await self._database.open()
        try:
            async with self._database.writing() as connection:
                await connection.run_sync(upgrade)
        except BaseException:
            await self._database.close()
            raise

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        """Write something, so that a full disk or a read-only file is noticed. Raises StoreUnavailable."""
        async with self._database.writing() as connection:
            statement = upsert(batch.COUNTERS).values(name="pings", value=1)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_={"value": batch.COUNTERS.c.value + 1})
            )

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Decide and commit a batch; see ``batch.apply``."""
        async with self._database.writing() as connection:
            return await connection.run_sync(batch.apply, works)

    async def task(self, task_id: str) -> Task | None:
        return await self._one(select(TASKS).where(TASKS.c.id == task_id))

    async def find_ref(
        self, ref: str, *, client: str | None, provider: str | None = None, kind: str | None = None
    ) -> Task | None:
        """Find a task by our id, the provider's, or a client's external id; ``client`` None sees all clients'.

        Our id wins, then the provider's; of several external ids the live one, then the newest.
        """
        scope = [TASKS.c.client == client] if client is not None else []
        if provider is not None:
            scope.append(TASKS.c.provider == provider)
        if kind is not None:
            scope.append(TASKS.c.kind == kind)
        for condition in (TASKS.c.id == ref, TASKS.c.provider_task_id == ref, TASKS.c.external_id == ref):
            statement = select(TASKS).where(condition, *scope).order_by(TASKS.c.released, TASKS.c.id.desc()).limit(1)
            if (task := await self._one(statement)) is not None:
                return task
        return None

    async def page(self, wanted: TaskFilter, *, limit: int, cursor: str | None) -> TaskPage:
        """Give one page, newest first; the cursor is the last id shown."""
        statement = _filtered(wanted).order_by(TASKS.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            statement = statement.where(TASKS.c.id < cursor)
        found = await self._many(statement)
        shown = found[:limit]
        return TaskPage(tasks=tuple(shown), next_cursor=shown[-1].id if len(found) > limit else None)

    async def numbered_page(self, wanted: TaskFilter, *, offset: int, limit: int) -> Sequence[Task]:
        """Give one numbered page, newest first, for the provider-shaped list."""
        statement = _filtered(wanted).order_by(TASKS.c.id.desc()).offset(offset).limit(limit)
        return await self._many(statement)

    async def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """Give the newest kept observations of a task, at most ``HISTORY_LIMIT``, oldest first."""
        columns = batch.OBSERVATIONS
        newest = select(columns).where(columns.c.task_id == task_id).order_by(columns.c.id.desc()).limit(HISTORY_LIMIT)
        statement = select(newest.subquery()).order_by("id")
        async with self._database.reading() as connection:
            return [rows.entry_from_row(dict(row)) for row in (await connection.execute(statement)).mappings()]

    async def submission(self, task_id: str) -> bytes | None:
        """Give the kept body of a submit that the provider does not provably have."""
        table = batch.SUBMISSIONS
        async with self._database.reading() as connection:
            found = await connection.execute(select(table.c.body).where(table.c.task_id == task_id))
            return found.scalar_one_or_none()

    async def claim_due(self, *, now: datetime, limit: int, owner: str, lease: timedelta) -> Sequence[Task]:
        """Lease the tasks that are due, longest due first, to ``owner``; leases of others are respected."""
        stamp = rows.stamp(now)
        free = or_(TASKS.c.lease_until.is_(None), TASKS.c.lease_until <= stamp)
        due = select(TASKS.c.id).where(TASKS.c.next_poll_at <= stamp, free).order_by(TASKS.c.next_poll_at).limit(limit)
        async with self._database.writing() as connection:
            ids = list((await connection.execute(due)).scalars())
            if not ids:
                return []
            claimed = update(TASKS).where(TASKS.c.id.in_(ids))
            await connection.execute(claimed.values(lease_owner=owner, lease_until=rows.stamp(now + lease)))
            found = await connection.execute(select(TASKS).where(TASKS.c.id.in_(ids)).order_by(TASKS.c.next_poll_at))
            return [rows.task_from_row(dict(row)) for row in found.mappings()]

    async def release(self, *, owner: str, margin: timedelta) -> None:
        """Take the leases of questions from every other owner.

        A submit may still be under way at the provider: its lease stays, to ``margin`` after the attempt's deadline.
        """
        others = TASKS.c.lease_owner != owner
        submit_ends = TASKS.c.attempt_deadline_at + margin // timedelta(microseconds=1)
        pending = TASKS.c.status == Status.PENDING.value
        asked = update(TASKS).where(others, ~pending).values(lease_owner=None, lease_until=None)
        looked_up = update(TASKS).where(others, pending, TASKS.c.lease_until > submit_ends)
        async with self._database.writing() as connection:
            await connection.execute(asked)
            await connection.execute(looked_up.values(lease_until=submit_ends))

    async def unresolved(self, *, provider: str, kind: str, limit: int) -> Sequence[Task]:
        """Give the pending tasks of a kind whose submit may have been lost, oldest first."""
        pending = and_(TASKS.c.status == Status.PENDING.value, TASKS.c.provider == provider, TASKS.c.kind == kind)
        return await self._many(select(TASKS).where(pending, TASKS.c.attempts > 0).order_by(TASKS.c.id).limit(limit))

    async def next_due(self) -> datetime | None:
        """Give when the next task is due, leases aside."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(func.min(TASKS.c.next_poll_at)))
            first = found.scalar_one_or_none()
        return None if first is None else rows.moment(first)

    async def due_orphans(self, *, now: datetime, limit: int) -> Sequence[Orphan]:
        columns = batch.ORPHANS
        statement = select(columns).where(columns.c.next_check_at <= rows.stamp(now)).limit(limit)
        return await self._orphans(statement)

    async def orphans(self, *, limit: int) -> Sequence[Orphan]:
        """Give the orphans, latest delivery first."""
        columns = batch.ORPHANS
        return await self._orphans(select(columns).order_by(columns.c.last_at.desc()).limit(limit))

    async def settle_orphan(
        self, orphan_id: int, *, state: str, why: str, next_check_at: datetime | None, task_id: str | None
    ) -> None:
        """Write down what came of asking about an orphan."""
        columns = batch.ORPHANS
        due = None if next_check_at is None else rows.stamp(next_check_at)
        statement = (
            update(columns)
            .where(columns.c.id == orphan_id)
            .values(state=state, why=why, next_check_at=due, task_id=task_id, checks=columns.c.checks + 1)
        )
        async with self._database.writing() as connection:
            await connection.execute(statement)

    async def capability(self, base_url: str, kind: str, name: str) -> tuple[bool, datetime] | None:
        """Tell whether an address was seen to do something, and when; None where it was never tried."""
        table = batch.CAPABILITIES
        statement = select(table.c.present, table.c.at).where(
            table.c.base_url == base_url, table.c.kind == kind, table.c.name == name
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else (row.present, rows.moment(row.at))

    async def generated_secret(self, name: str, fresh: bytes) -> bytes:
        """Give the secret kept under ``name``, keeping ``fresh`` if there is none yet."""
        async with self._database.writing() as connection:
            await connection.execute(upsert(SECRETS).values(name=name, value=fresh).on_conflict_do_nothing())
            found = await connection.execute(select(SECRETS.c.value).where(SECRETS.c.name == name))
            kept: bytes = found.scalar_one()
            return kept

    async def add_address(self, address: StandingAddress, token_hash: str) -> StandingAddress:
        """Keep a standing address under the hash of its token, and give it its id."""
        values = {
            "provider": address.provider,
            "kind": address.kind,
            "client": address.client,
            "label": address.label,
            "token_hash": token_hash,
            "created_at": rows.stamp(address.created_at),
            "revoked_at": None,
        }
        async with self._database.writing() as connection:
            found = await connection.execute(insert(ADDRESSES).values(values).returning(ADDRESSES))
            return rows.address_from_row(dict(found.mappings().one()))

    async def addresses(self) -> Sequence[StandingAddress]:
        async with self._database.reading() as connection:
            found = await connection.execute(select(ADDRESSES).order_by(ADDRESSES.c.id))
            return [rows.address_from_row(dict(row)) for row in found.mappings()]

    async def address_of(self, provider: str, token_hash: str) -> StandingAddress | None:
        """Find the live address of a token."""
        statement = select(ADDRESSES).where(
            ADDRESSES.c.token_hash == token_hash, ADDRESSES.c.provider == provider, ADDRESSES.c.revoked_at.is_(None)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else rows.address_from_row(dict(row))

    async def revoke_address(self, address_id: int, *, now: datetime) -> StandingAddress | None:
        statement = (
            update(ADDRESSES)
            .where(ADDRESSES.c.id == address_id)
            .values(revoked_at=func.coalesce(ADDRESSES.c.revoked_at, rows.stamp(now)))
            .returning(ADDRESSES)
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            return None if row is None else rows.address_from_row(dict(row))

    async def stats(self, *, client: str | None, now: datetime) -> Stats:
        """Count; the running counts, orphans and alarms belong to no client and are only in the whole."""
        scope = [TASKS.c.client == client] if client is not None else []
        by_status = select(TASKS.c.status, func.count()).where(*scope).group_by(TASKS.c.status)
        by_source = (
            select(TASKS.c.learned_from, func.count())
            .where(TASKS.c.status.in_([status.value for status in sorted(FINAL)]), *scope)
            .group_by(TASKS.c.learned_from)
        )
        open_ones = TASKS.c.status.in_([status.value for status in OPEN])
        oldest = select(func.min(TASKS.c.created_at)).where(open_ones, *scope)
        due = select(func.count()).where(TASKS.c.next_poll_at <= rows.stamp(now), *scope)
        async with self._database.reading() as connection:
            statuses = {row[0]: row[1] for row in await connection.execute(by_status)}
            sources = {row[0]: row[1] for row in await connection.execute(by_source)}
            first = (await connection.execute(oldest)).scalar_one_or_none()
            due_count = (await connection.execute(due)).scalar_one()
            counts: dict[str, int] = {}
            orphans: dict[str, int] = {}
            alarms: list[dict[str, Any]] = []
            if client is None:
                table = batch.COUNTERS
                counts = {row[0]: row[1] for row in await connection.execute(select(table.c.name, table.c.value))}
                grouped = select(batch.ORPHANS.c.state, func.count()).group_by(batch.ORPHANS.c.state)
                orphans = {row[0]: row[1] for row in await connection.execute(grouped)}
                latest = select(batch.ALARMS).order_by(batch.ALARMS.c.last_at.desc()).limit(ALARM_LIMIT)
                alarms = [dict(row) for row in (await connection.execute(latest)).mappings()]
            absorbed = select(func.coalesce(func.sum(batch.OBSERVATIONS.c.repeats), 0))
            duplicates = (await connection.execute(absorbed)).scalar_one() if client is None else 0
        return Stats(
            by_status=statuses,
            open=sum(statuses.get(status.value, 0) for status in OPEN),
            due=due_count,
            oldest_open_at=None if first is None else rows.moment(first),
            finished_by_source={str(name): count for name, count in sources.items()},
            deliveries=counts.get("deliveries", 0),
            duplicates=duplicates,
            hints=counts.get("hints", 0),
            polls=counts.get("polls", 0),
            orphans=orphans,
            alarms=tuple(rows.alarm_from_row(row) for row in alarms),
        )

    async def _one(self, statement: Select[Any]) -> Task | None:
        found = await self._many(statement)
        return found[0] if found else None

    async def _many(self, statement: Select[Any]) -> list[Task]:
        async with self._database.reading() as connection:
            return [rows.task_from_row(dict(row)) for row in (await connection.execute(statement)).mappings()]

    async def _orphans(self, statement: Select[Any]) -> list[Orphan]:
        async with self._database.reading() as connection:
            return [rows.orphan_from_row(dict(row)) for row in (await connection.execute(statement)).mappings()]


def _filtered(wanted: TaskFilter) -> Select[Any]:
    conditions = []
    if wanted.client is not None:
        conditions.append(TASKS.c.client == wanted.client)
    if wanted.statuses:
        conditions.append(TASKS.c.status.in_([status.value for status in wanted.statuses]))
    if wanted.provider is not None:
        conditions.append(TASKS.c.provider == wanted.provider)
    if wanted.kind is not None:
        conditions.append(TASKS.c.kind == wanted.kind)
    if wanted.created_after is not None:
        conditions.append(TASKS.c.created_at >= rows.stamp(wanted.created_after))
    if wanted.created_before is not None:
        conditions.append(TASKS.c.created_at < rows.stamp(wanted.created_before))
    if wanted.tag is not None:
        tags = batch.TAGS
        conditions.append(TASKS.c.id.in_(select(tags.c.task_id).where(tags.c.tag == wanted.tag)))
    return select(TASKS).where(and_(True, *conditions))
