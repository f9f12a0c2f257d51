"""Sinks and their pending deliveries, and events about alarms, which belong to no task."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite cannot remove a NOT NULL, so the table is written again with the existing numbers.
EVENTS = """
CREATE TABLE events_again (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    task_id TEXT,
    sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    at BIGINT NOT NULL,
    data TEXT NOT NULL,
    UNIQUE (task_id, sequence),
    FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE
)
"""
COLUMNS = "id, task_id, sequence, type, at, data"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _write_again()
    else:
        op.alter_column("events", "task_id", existing_type=sa.Text(), nullable=True)
    alarms = sa.text("task_id IS NULL")
    op.create_index("ix_events_alarms", "events", ["at"], sqlite_where=alarms, postgresql_where=alarms)
    op.create_table(
        "sinks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("on", sa.Boolean(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("last_error_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("retry_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "deliveries",
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["sink"], ["sinks.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sink", "event_id"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["sink", "next_at"])
    op.create_index("ix_deliveries_task", "deliveries", ["task_id", "sink"])
    op.create_index("ix_deliveries_event", "deliveries", ["event_id"])


def _write_again() -> None:
    last = op.get_bind().scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'events'"))
    op.execute(EVENTS)
    op.execute(f"INSERT INTO events_again ({COLUMNS}) SELECT {COLUMNS} FROM events ORDER BY id")  # noqa: S608
    op.execute("DROP TABLE events")
    op.execute("ALTER TABLE events_again RENAME TO events")
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('events', {int(last or 0)})")  # noqa: S608
