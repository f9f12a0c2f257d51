"""The base of the classes that own the SQL. Their decorated methods get a connection. Their callers await them.

class Counts(TableStore):
@read_transaction
def of(self, connection: Connection, name: str) -> int: ...

await Counts(database).of("polls")
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from tracker.storage.engine.database import Database


class TableStore:
    """Holds the database whose statements a class owns."""

    def __init__(self, database: Database) -> None:
        self.database = database


S = TypeVar("S", bound=TableStore)
P = ParamSpec("P")
T = TypeVar("T")


def read_transaction(
    method: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method in a transaction that sees one consistent view. The caller's call raises StoreUnavailable."""

    @wraps(method)
    async def read(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.read(lambda connection: method(self, connection, *args, **kwargs))

    return read


def write_transaction(
    method: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method in a transaction that commits when it returns. The caller's call raises StoreUnavailable."""

    @wraps(method)
    async def write(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.write(lambda connection: method(self, connection, *args, **kwargs))

    return write
