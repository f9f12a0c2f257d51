"""Limits on unsigned callbacks: a count on each task, and a search by URL among orphans."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("unsigned", sa.Integer(), nullable=True))
    waiting = sa.text("next_check_at IS NOT NULL")
    op.create_index("ix_orphans_waiting", "orphans", ["address"], sqlite_where=waiting, postgresql_where=waiting)
    settled = sa.text("state = 'orphan'")
    op.create_index(
        "ix_orphans_settled", "orphans", ["address", "last_at"], sqlite_where=settled, postgresql_where=settled
    )
