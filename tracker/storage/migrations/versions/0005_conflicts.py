"""A conflict is the set of reported final statuses and the time when it opened. Dropped conflicts open again."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The old column had the last final report that was not accepted, even if the provider had answered.
DECIDED = """
UPDATE tasks SET conflict_claims = NULL
WHERE conflict_claims = status OR (standing_asked AND status IN ('succeeded', 'failed'))
"""
# Many of them are not polled any more: the reply to a submission, or twenty polls without an answer, ended that.
OPEN = """
UPDATE tasks SET conflict_at = :now, quiet_polls = 0, next_poll_at = coalesce(next_poll_at, :now)
WHERE conflict_claims IS NOT NULL AND status IN ('succeeded', 'failed')
"""


def upgrade() -> None:
    op.execute("ALTER TABLE tasks RENAME COLUMN doubt TO conflict_claims")
    op.add_column("tasks", sa.Column("conflict_at", sa.BigInteger(), nullable=True))
    op.execute(DECIDED)
    op.execute(sa.text(OPEN).bindparams(now=int(time.time() * 1_000_000)))
