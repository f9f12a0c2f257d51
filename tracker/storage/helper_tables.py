"""The tables of recorded helper calls, and of the provider's objects with their clients."""

from typing import ClassVar, Final

from sqlalchemy import Index
from sqlmodel import Field

from tracker.storage.columns import TableRow, bytes_column, only, row_id, table_of, text_column, time_column


class HelperCallRow(TableRow, table=True):
    """A helper call that costs or makes something. See ``model.helper_records``."""

    __tablename__: ClassVar[str] = "helper_calls"
    __table_args__ = (
        Index(
            "ux_helper_calls_idempotency_key",
            "client",
            "idempotency_key",
            unique=True,
            **only("idempotency_key IS NOT NULL"),
        ),
        Index(
            "ix_helper_calls_sending",
            "until",
            **only("state = 'sending'"),
        ),
        Index("ix_helper_calls_created", "created_at"),
    )

    id: int | None = row_id()
    provider: str = text_column(nullable=False)
    account: str = text_column(nullable=False)
    client: str = text_column(nullable=False)
    call: str = text_column(nullable=False)
    request_hash: str = text_column(nullable=False)
    idempotency_key: str | None = text_column()
    owner: str = text_column(nullable=False)
    created_at: int = time_column(nullable=False)
    until: int = time_column(nullable=False)
    state: str = text_column(nullable=False)
    ended_at: int | None = time_column()
    http_status: int | None = None
    body: bytes = bytes_column()
    digest: str = text_column(nullable=False)
    size: int = 0
    why: str = text_column(nullable=False)


class ClaimRow(TableRow, table=True):
    """A client to whom an object of a provider belongs. See ``model.provider_objects``."""

    __tablename__: ClassVar[str] = "object_claims"
    __table_args__ = (Index("ix_object_claims_type", "type", "at"),)

    provider: str = text_column(primary_key=True)
    account: str = text_column(primary_key=True)
    type: str = text_column(primary_key=True)
    object_id: str = text_column(primary_key=True)
    client: str = text_column(primary_key=True)
    kind: str = text_column(nullable=False)
    provider_task_id: str | None = text_column()
    verified: bool = Field(default=False)
    at: int = time_column(nullable=False)


HELPER_CALLS: Final = table_of(HelperCallRow)
CLAIMS: Final = table_of(ClaimRow)
