"""LISTEN and NOTIFY: processes that share a PostgreSQL notify each other of commits.

A notice is never part of a batch, because NOTIFY makes every commit wait for a database-wide lock. There is no notice
per row. A notice carries no data: it only makes the other processes read new events.
"""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from importlib import import_module
from typing import Any, Final

from sqlalchemy import URL

CHANNEL: Final = "homing_events"
USUAL_SCHEMA: Final = "public"
CONNECT_SECONDS: Final = 5
# After this many seconds without a notice, run a query to detect a dead connection.
SILENCE: Final = 30.0


class PostgresNotices:
    """Two separate connections, made at their first use: one listens, one notifies."""

    def __init__(self, url: URL, schema: str | None = None) -> None:
        self._schema = schema
        self._channel = CHANNEL
        self._address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._notifying: Any = None
        self._own = 0

    async def listen(self, on_notice: Callable[[], None]) -> None:
        """Call ``on_notice`` for each notice of another process, until canceled. Raises the driver's errors."""
        connection = await self._connect()
        try:
            await connection.execute(f"LISTEN {self._channel}")
            # Notices from before this connection listened are lost.
            on_notice()
            while True:
                async for notice in connection.notifies(timeout=SILENCE):
                    if notice.pid != self._own:
                        on_notice()
                await connection.execute("SELECT 1")
        finally:
            await connection.close()

    async def announce(self) -> None:
        """Notify the other processes. Raises the driver's errors."""
        if self._notifying is None or self._notifying.closed:
            self._notifying = await self._connect()
            self._own = self._notifying.info.backend_pid
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._notifying.execute(f"NOTIFY {self._channel}")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        notifying, self._notifying = self._notifying, None
        if notifying is not None:
            await notifying.close()

    async def _connect(self) -> Any:  # noqa: ANN401 - the driver's own type
        psycopg: Any = import_module("psycopg")
        connection = await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="homing notices"
        )
        try:
            if self._schema is not None:
                await connection.execute(f"SET search_path = '{self._schema}'")
            (schema,) = await (await connection.execute("SELECT current_schema()")).fetchone()
        except BaseException:
            await connection.close()
            raise
        self._channel = channel_of(schema)
        return connection


def channel_of(schema: str | None) -> str:
    """Return the channel for a schema. Channels belong to a whole database, which may have several Homings."""
    if schema == USUAL_SCHEMA:
        return CHANNEL
    # A name has at most 63 characters.
    return f"{CHANNEL}_{blake2b(str(schema).encode(), digest_size=8).hexdigest()}"
