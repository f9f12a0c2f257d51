"""The clients to whom the objects of a provider belong."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, update

from tracker.model.provider_objects import Claim, ObjectRef, ObjectType
from tracker.model.task import Status, Task
from tracker.storage import rows
from tracker.storage.engine import bulk
from tracker.storage.engine.bulk import Statement
from tracker.storage.engine.table_store import TableStore, read_transaction, write_transaction
from tracker.storage.engine.upserts import Insert, upsert
from tracker.storage.helper_tables import CLAIMS

COLUMNS: Final = ("provider", "account", "type", "object_id", "client", "kind", "provider_task_id", "verified", "at")
KEY: Final = COLUMNS[:5]
VERIFIED: Final = COLUMNS.index("verified")
TASK_TYPES: Final = {each.value: each for each in (ObjectType.VOICE, ObjectType.ELEMENT)}
# One answer names at most so many objects, such as the sessions of a video.
MAX_CLAIMS: Final = 100


class ClaimStore(TableStore):
    """The claims. The claims of tasks are written with the tasks' results (``of_tasks``)."""

    @read_transaction
    def claims(self, connection: Connection, provider: str, account: str, named: ObjectRef) -> Sequence[Claim]:
        """Return the claims of all clients to an object."""
        statement = select(CLAIMS).where(_is_about(provider, account, named)).order_by(CLAIMS.c.client)
        return [
            Claim(
                provider=provider,
                account=account,
                object=named,
                client=row.client,
                at=rows.moment(row.at),
                kind=row.kind,
                provider_task_id=row.provider_task_id,
                verified=row.verified,
            )
            for row in connection.execute(statement)
        ]

    @read_transaction
    def owned(
        self, connection: Connection, provider: str, account: str, client: str, named: Sequence[ObjectRef]
    ) -> frozenset[ObjectRef]:
        """Return the objects among ``named``, all of one type, that belong to a client beyond doubt."""
        if not named:
            return frozenset()
        column = CLAIMS.c
        whose = and_(column.provider == provider, column.account == account, column.client == client, column.verified)
        ids = [each.id for each in named]
        statement = select(column.object_id).where(whose, column.type == named[0].type.value, column.object_id.in_(ids))
        return frozenset(ObjectRef(named[0].type, its_id) for its_id in connection.execute(statement).scalars())

    @write_transaction
    def add(self, connection: Connection, claims: Sequence[Claim]) -> None:
        """Record claims."""
        add_claims(connection, claims)

    @write_transaction
    def verify(self, connection: Connection, claim: Claim) -> None:
        """Record that the provider confirmed a claim."""
        whose = and_(_is_about(claim.provider, claim.account, claim.object), CLAIMS.c.client == claim.client)
        connection.execute(update(CLAIMS).where(whose).values(verified=True))

    @write_transaction
    def remove(self, connection: Connection, provider: str, account: str, named: ObjectRef) -> None:
        """Remove all claims to an object that the provider deleted."""
        connection.execute(delete(CLAIMS).where(_is_about(provider, account, named)))

    @write_transaction
    def delete_old_sessions(self, connection: Connection, *, until: datetime, limit: int) -> int:
        """Delete the claims to at most ``limit`` sessions that ended long ago."""
        key = tuple(CLAIMS.c[name] for name in KEY)
        old = and_(CLAIMS.c.type == ObjectType.SESSION.value, CLAIMS.c.at <= rows.stamp(until))
        found = connection.execute(select(*key).where(old).order_by(CLAIMS.c.at).limit(limit)).all()
        for row in found:
            connection.execute(delete(CLAIMS).where(*(column == value for column, value in zip(key, row, strict=True))))
        return len(found)


def add_claims(connection: Connection, claims: Iterable[Claim]) -> None:
    """Record claims within a transaction."""
    for values in _sorted(claims):
        connection.execute(_merged(upsert(connection, CLAIMS).values(dict(zip(COLUMNS, values, strict=True)))))


def of_tasks(dialect: str, tasks: Iterable[Task], before: Mapping[str, Task]) -> Iterator[Statement]:
    """Yield the statements that record the voices and elements that the changed tasks of a batch have made."""
    claims = [claim for task in tasks for claim in _claims_of(task, before.get(task.id))]
    if claims:
        yield from bulk.insert_rows(dialect, CLAIMS, COLUMNS, _sorted(claims), _merged)


def _claims_of(task: Task, before: Task | None) -> Iterator[Claim]:
    known = before is not None and before.facts is task.facts and before.provider_task_id == task.provider_task_id
    fact = task.facts.get("assets")
    if task.provider_task_id is None:
        # Only a callback has named the objects, and no query can verify its claim.
        return
    if known or task.status is not Status.SUCCEEDED or fact is None or not isinstance(fact.value, list):
        return
    for asset in fact.value[:MAX_CLAIMS]:
        made = TASK_TYPES.get(str(asset.get("kind"))) if isinstance(asset, dict) else None
        its_id = asset.get("provider_asset_id") if isinstance(asset, dict) else None
        if made is not None and isinstance(its_id, str):
            yield Claim(
                provider=task.provider,
                account=task.account,
                object=ObjectRef(made, its_id),
                client=task.client,
                at=task.updated_at,
                kind=task.kind,
                provider_task_id=task.provider_task_id,
                # A callback may be the client's own.
                verified=fact.precedence.polled,
            )


def _sorted(claims: Iterable[Claim]) -> list[tuple[object, ...]]:
    """Return the columns of claims in the order of their keys, so that two batches cannot deadlock."""
    found: dict[tuple[str, ...], tuple[object, ...]] = {}
    for one in claims:
        key = (one.provider, one.account, one.object.type.value, one.object.id, one.client)
        verified = one.verified or (key in found and bool(found[key][VERIFIED]))
        found[key] = (*key, one.kind, one.provider_task_id, verified, rows.stamp(one.at))
    return [found[key] for key in sorted(found)]


def _merged(statement: Insert) -> Insert:
    new, old = statement.excluded, CLAIMS.c
    return statement.on_conflict_do_update(
        index_elements=list(KEY),
        set_={
            "kind": case((new.provider_task_id.is_not(None), new.kind), else_=old.kind),
            "provider_task_id": func.coalesce(new.provider_task_id, old.provider_task_id),
            "verified": or_(old.verified, new.verified),
        },
    )


def _is_about(provider: str, account: str, named: ObjectRef) -> ColumnElement[bool]:
    column = CLAIMS.c
    return and_(
        column.provider == provider,
        column.account == account,
        column.type == named.type.value,
        column.object_id == named.id,
    )
