"""Detects a connection to PostgreSQL through a pooler that gives each transaction another session.

Settings, prepared statements and LISTEN belong to a session, so Homing soon fails there. A pooler does no harm if a
connection keeps one session until it is closed.
"""

from collections.abc import Callable
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import Any, Final

from psycopg import Connection, OperationalError
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

PID: Final = b"SELECT pg_backend_pid()"
# Read twice in a row, because a pooler may assign its sessions in turn.
PID_READS: Final = 2
SECONDS: Final = 5.0


def is_direct(connection: Connection[Any]) -> bool:
    """Return whether the session is the one that the server announced when the connection was made.

    A pooler announces its own number, because one connection may get several sessions. Costs one round trip.
    """
    return _pid(connection.pgconn) == connection.info.backend_pid


def changes_sessions(connection: Connection[Any], connect: Callable[[], Connection[Any]]) -> bool:
    """Return whether a pooler moves sessions between a connection and a second one, made by ``connect``.

    A pool that has no session for the second connection keeps each session with its connection.
    """
    ours = {_pid(connection.pgconn) for _ in range(PID_READS)}
    if len(ours) > 1:
        return True
    try:
        other = connect()
    except OperationalError:
        return False
    try:
        theirs = {_pid(other.pgconn) for _ in range(PID_READS)}
    except TimeoutError:
        return False
    finally:
        other.close()
    return len(theirs) > 1 or ours == theirs


def _pid(pgconn: PGconn) -> int:
    """Return the process ID of a connection's session. Raises TimeoutError if the pooler gives it no session."""
    end = monotonic() + SECONDS
    pgconn.send_query(PID)
    with DefaultSelector() as selector:
        selector.register(pgconn.socket, EVENT_READ)
        while pgconn.is_busy():
            if not selector.select(end - monotonic()):
                raise TimeoutError
            pgconn.consume_input()
    result = pgconn.get_result()
    while pgconn.get_result() is not None:
        pass
    if result is None or result.status != ExecStatus.TUPLES_OK:
        raise OperationalError(pgconn.get_error_message())
    return int(result.get_value(0, 0) or 0)
