"""The store: one database, opened and closed, and the classes that own its SQL. All SQL is in this package.

``Store.apply`` writes the result of a decision (see ``batch``). Everything else is a method of the class that owns the
statements: ``store.tasks.get``, ``store.sinks.states``. Every method is one transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection

from tracker.errors import StoreUnavailable
from tracker.model.changes import Work
from tracker.model.records import Completion, Stats
from tracker.storage import audit_store, batch, schema_revision, statistics
from tracker.storage.account_store import AccountStore
from tracker.storage.alarm_log import AlarmLog
from tracker.storage.audit_store import AuditStore
from tracker.storage.callback_url_store import CallbackUrlStore
from tracker.storage.claim_store import ClaimStore
from tracker.storage.delivery_store import DeliveryStore
from tracker.storage.due_task_store import DueTaskStore
from tracker.storage.engine.database import BUSY, Database
from tracker.storage.engine.event_order import WENT_BACK, WentBack, continue_numbers
from tracker.storage.engine.notices import PostgresNotices
from tracker.storage.event_store import EventStore, Written
from tracker.storage.helper_store import HelperStore
from tracker.storage.orphan_store import OrphanStore
from tracker.storage.progress_store import ProgressStore
from tracker.storage.rehearsal import rehearse
from tracker.storage.result_expiry_store import ResultExpiryStore
from tracker.storage.retention_store import RetentionStore
from tracker.storage.secret_store import SecretStore
from tracker.storage.server_store import ServerStore
from tracker.storage.sink_store import SinkStore
from tracker.storage.task_page_store import TaskPageStore
from tracker.storage.task_store import TaskStore

if TYPE_CHECKING:
    from tracker.storage.migrate import Upgrade

T = TypeVar("T")

# The first run detects a database that went back. The second run writes to it.
RUNS: Final = 2


class Store:
    """One database, opened by ``open``. ``busy`` is the maximum wait for a lock.

    ``schema`` is the PostgreSQL schema of the tables. None means the usual one. Raises SettingsError.
    """

    def __init__(self, database_url: str, *, busy: timedelta = BUSY, schema: str | None = None) -> None:
        database = Database(database_url, busy=busy, schema=schema)
        backend = database.backend
        self._database = database
        # Whether several processes may serve the database at once.
        self.shared: Final = backend.shared
        # The number of concurrent batches. The database decides them in the order of arrival.
        self.batches_at_once: Final = backend.batches_at_once
        # Detects whether the database still continues the state that this process has seen.
        self.continuity: Final = backend.continuity
        # The file of the database, or None for a server.
        self.file: Final = backend.file
        self._alarm_log = AlarmLog()
        self.accounts = AccountStore(database)
        self.audit = AuditStore(database)
        self.callback_urls = CallbackUrlStore(database, self.audit)
        self.claims = ClaimStore(database)
        self.due_tasks = DueTaskStore(database)
        self.events = EventStore(database)
        self.deliveries = DeliveryStore(database, self.audit)
        self.helper_calls = HelperStore(database)
        self.orphans = OrphanStore(database)
        self.progress = ProgressStore(database, self.events)
        self.result_expiry = ResultExpiryStore(database, self._alarm_log)
        self.retention = RetentionStore(database)
        self.secrets = SecretStore(database)
        self.servers = ServerStore(database)
        self.sinks = SinkStore(database, self.audit)
        self.task_pages = TaskPageStore(database)
        self.tasks = TaskStore(database)

    @property
    def name(self) -> str:
        """The database URL without its password."""
        return self._database.name

    @property
    def notices(self) -> PostgresNotices | None:
        """The notices between processes that share the database, or None if only one process serves it."""
        return PostgresNotices(self._database.url, self._database.schema) if self.shared else None

    async def open(self) -> None:
        """Connect, and migrate the schema of a file.

        Homing does not migrate the schema of a server, because other processes may be using it.

        Raises StoreUnavailable, after closing everything again.
        """
        await self._open(schema_revision.check if self.shared else _migrate_if_older)

    async def open_read_only(self) -> None:
        """Connect for reading: without the serving lock, and without migrations. Nothing can be written.

        Raises StoreUnavailable, with what to do, if the schema is missing or another one.
        """
        await self._database.open(read_only=True)
        try:
            await self._database.read(schema_revision.check)
        except BaseException:
            await self._database.close()
            raise

    async def migrate(self) -> "Upgrade":
        """Migrate the schema of any database, return the two revisions, and close."""
        from tracker.storage import migrate  # noqa: PLC0415 - it needs Alembic, which takes long to import

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

    async def revision(self) -> str | None:
        """Return the revision of the schema."""
        return await self._database.read(schema_revision.revision)

    async def ping(self) -> None:
        """Write as a request would, and commit. Raises StoreUnavailable, or the driver's error for a missing table."""
        await self._database.write(rehearse)

    async def apply(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Decide and commit a batch (see ``batch.apply``).

        Then keep its events in memory, and log its alarms and audit.
        """
        for _ in range(RUNS):
            changes, written = self.continuity.changes, Written(highest=self.continuity.highest)
            try:
                results = await self._database.write_batch(batch.apply, works, written)
            except WentBack:
                await self.continue_numbers()
                self.continuity.changed(WENT_BACK)
                continue
            if changes == self.continuity.changes:
                self.events.keep(written)
            if written.alarms:
                self._alarm_log.say(written.alarms)
            if written.audits:
                audit_store.say(written.audits)
            return results
        raise StoreUnavailable("the database went back again. Wait until its restore is done")

    async def continue_numbers(self) -> None:
        """Continue the event numbers after all earlier ones, because the database may have been restored."""
        await self._database.write(continue_numbers, highest=self.continuity.highest)

    async def completions(
        self, *, after: tuple[datetime, str] | None, until: datetime, limit: int
    ) -> Sequence[Completion]:
        """Return tasks that finished by ``until``, by (finished_at, id): those after the cursor, else the newest."""
        return await self._database.read(statistics.completions, after=after, until=until, limit=limit)

    async def stats(self, *, client: str | None, now: datetime) -> Stats:
        """Return the counts.

        Running counts, orphans and alarms belong to no client, so only the whole store has them.
        """
        return await self._database.read(statistics.stats, client=client, now=now)


def _migrate_if_older(connection: Connection) -> None:
    """Run the missing migrations. Alembic is only imported if there is one, because that takes long."""
    if not schema_revision.is_newest(connection):
        from tracker.storage import migrate  # noqa: PLC0415

        migrate.upgrade(connection)
