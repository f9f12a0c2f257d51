"""Secrets that Homing generated, in the database so that replicas share them."""

from sqlalchemy import Connection, select

from tracker.storage.engine.database import Database
from tracker.storage.engine.table_store import TableStore, write_transaction
from tracker.storage.engine.upserts import upsert
from tracker.storage.tables import SECRETS


class SecretStore(TableStore):
    """Reads each secret once, then remembers it, because every webhook is signed."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._used: dict[str, bytes] = {}

    async def get(self, name: str, fresh: bytes) -> bytes:
        """Return the secret of a name. Record ``fresh`` if there is none yet."""
        if name not in self._used:
            self._used[name] = await self._recorded(name, fresh)
        return self._used[name]

    async def record_again(self) -> None:
        """Record the secrets in use, in case the database returned without them. A secret in the database wins."""
        for name, used in tuple(self._used.items()):
            self._used[name] = await self._recorded(name, used)

    @write_transaction
    def _recorded(self, connection: Connection, name: str, fresh: bytes) -> bytes:
        connection.execute(upsert(connection, SECRETS).values(name=name, value=fresh).on_conflict_do_nothing())
        kept: bytes = connection.execute(select(SECRETS.c.value).where(SECRETS.c.name == name)).scalar_one()
        return kept
