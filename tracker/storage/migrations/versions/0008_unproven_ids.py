"""The source of a provider ID that nothing has proven to belong to the task."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("unproven_id_from", sa.Text(), nullable=True))
