"""Several servers, retention, a schedule that learns, and pages that stay flat."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Tables and columns are only added, so that a server of an earlier version can read and write the old ones. An index is
# replaced if its query changed, or if PostgreSQL got it without its condition.
REPLACED = {
    "tasks": (
        "ix_tasks_client",
        "ix_tasks_kind",
        "ix_tasks_status",
        "ix_tasks_external_id",
        "ux_tasks_provider_task_id",
    ),
    "orphans": ("ix_orphans_due",),
}
PLAIN = {
    "ix_tasks_client": ("tasks", ["client", "provider", "kind", "status", "id", "learned_from"]),
    "ix_tasks_kind": ("tasks", ["provider", "kind", "status", "id"]),
    "ix_task_tags_task": ("task_tags", ["task_id"]),
    "ix_orphans_last": ("orphans", ["last_at"]),
    "ix_alarms_hour": ("alarms", ["hour"]),
    "ix_forgotten_at": ("forgotten", ["at"]),
}
CONDITIONS = {
    "ix_tasks_external_id": ("tasks", ["external_id"], "external_id IS NOT NULL"),
    "ix_tasks_finished": ("tasks", ["finished_at", "id"], "finished_at IS NOT NULL"),
    "ix_tasks_leased": ("tasks", ["lease_owner"], "lease_owner IS NOT NULL"),
    "ix_observations_repeated": ("observations", ["repeats"], "repeats > 0"),
    "ix_orphans_due": ("orphans", ["next_check_at"], "next_check_at IS NOT NULL"),
    "ux_tasks_provider_task_id": (
        "tasks",
        ["provider_task_id", "provider", "account"],
        "provider_task_id IS NOT NULL",
    ),
}


def upgrade() -> None:
    op.add_column("tasks", sa.Column("model", sa.Text(), nullable=True))
    op.create_table(
        "servers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("parts", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "forgotten",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("provider_task_id", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "account", "provider_task_id"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _number_events_for_good()
    for table, names in REPLACED.items():
        for name in names:
            op.drop_index(name, table)
    for name, (table, columns) in PLAIN.items():
        op.create_index(name, table, columns)
    for name, (table, columns, condition) in CONDITIONS.items():
        where = sa.text(condition)
        op.create_index(name, table, columns, unique=name.startswith("ux_"), sqlite_where=where, postgresql_where=where)


def _number_events_for_good() -> None:
    """Never use an event's ID again, even if the last event is deleted. A server's sequence already works like this."""
    op.create_table(
        "events_numbered",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("task_id", "sequence"),
        sqlite_autoincrement=True,
    )
    op.execute("INSERT INTO events_numbered SELECT id, task_id, sequence, type, at, data FROM events")
    op.drop_table("events")
    op.rename_table("events_numbered", "events")
