"""The table of orphan callbacks."""

from typing import ClassVar, Final

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from tracker.storage.columns import TableRow, bytes_column, only, row_id, table_of, text_column, time_column


class OrphanRow(TableRow, table=True):
    """A callback for an unknown task."""

    __tablename__: ClassVar[str] = "orphans"
    __table_args__ = (
        UniqueConstraint("provider", "provider_task_id"),
        Index(
            "ix_orphans_due",
            "next_poll_at",
            **only("next_poll_at IS NOT NULL"),
        ),
        Index("ix_orphans_last", "last_at"),
        # The number of unsigned orphans per URL is limited (see ``orphan_store``).
        Index(
            "ix_orphans_waiting",
            "address",
            **only("next_poll_at IS NOT NULL"),
        ),
        Index(
            "ix_orphans_settled",
            "address",
            "last_at",
            **only("state = 'orphan'"),
        ),
    )

    id: int | None = row_id()
    provider: str = text_column(nullable=False)
    provider_task_id: str = text_column(nullable=False)
    external_id: str | None = text_column()
    kind: str | None = text_column()
    client: str = text_column(nullable=False)
    address: str = text_column(nullable=False)
    provider_status: str | None = text_column()
    state: str = text_column(nullable=False)
    why: str = text_column(nullable=False)
    first_at: int = time_column(nullable=False)
    last_at: int = time_column(nullable=False)
    callbacks: int = 1
    poll_count: int = 0
    next_poll_at: int | None = time_column()
    task_id: str | None = text_column()
    signed: bool = Field(default=False)
    body: bytes = bytes_column()


ORPHANS: Final = table_of(OrphanRow)
