"""The client's metadata of a task, and pages of tasks by metadata and by model."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Everything is only added, so that a server of an earlier version can read and write the old tables.
    op.add_column("tasks", sa.Column("metadata", sa.Text(), nullable=True))
    op.create_table(
        "task_metadata",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", "value", "task_id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_task_metadata_task", "task_metadata", ["task_id"])
    requested = sa.text("model IS NOT NULL")
    op.create_index("ix_tasks_model", "tasks", ["model", "id"], sqlite_where=requested, postgresql_where=requested)
