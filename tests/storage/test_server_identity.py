"""Recognizing the server behind a new connection, while other connections commit."""

from typing import Any

import psycopg

from tests.support.postgres import Postgres
from tracker.storage.engine.event_order import SEQUENCE, Continuity
from tracker.storage.engine.server_identity import ServerIdentity

LATER_EVENT = 1_000


def connected(url: str, kind: type[psycopg.Connection[Any]] = psycopg.Connection) -> psycopg.Connection[Any]:
    """Connect as the store does."""
    return kind.connect(url, cursor_factory=psycopg.RawCursor)


def test_commit_while_connecting_is_no_restore(postgres: Postgres) -> None:
    continuity, url = Continuity(), postgres.fresh()
    identity = ServerIdentity(continuity)

    class BusyConnection(psycopg.Connection[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
            answer = super().execute(query, *arguments, **options)
            if SEQUENCE in query:
                # Another connection commits an event after this one has read the last number.
                continuity.see(LATER_EVENT)
            return answer

    with connected(url) as first, connected(url, BusyConnection) as second:
        identity.meet(first)
        identity.meet(second)

    assert continuity.highest == LATER_EVENT
    assert continuity.changes == 0


def test_number_below_a_known_one_is_a_restore(postgres: Postgres) -> None:
    continuity, url = Continuity(), postgres.fresh()
    identity = ServerIdentity(continuity)

    with connected(url) as first, connected(url) as second:
        identity.meet(first)
        continuity.see(LATER_EVENT)
        identity.meet(second)

    assert continuity.changes == 1
