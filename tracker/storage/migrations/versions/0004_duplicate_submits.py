"""The time when the provider refused a submission because a task already has its external ID."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("duplicate_at", sa.BigInteger(), nullable=True))
